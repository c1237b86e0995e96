"""The redis check against a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis as library

from reconciler.checks import redis
from reconciler.core.section import SecretRef
from reconciler.core.spec_verify import RedisCheck
from tests.checks.support import SECRETS, attempt, context

if TYPE_CHECKING:
    from reconciler.checks.base import Outcome


def ask(url: str) -> Outcome:
    return redis.probe(RedisCheck(url=url), context(), attempt())


def test_a_server_that_answers(redis_server: str) -> None:
    outcome = ask(redis_server)
    assert outcome.passed
    assert "PONG" in outcome.detail


def test_nobody_there() -> None:
    outcome = ask("redis://127.0.0.1:1/0")
    assert not outcome.passed
    assert "redis 127.0.0.1:1: expected PONG, got:" in outcome.detail


def test_a_password_is_used_and_never_shown(redis_server: str) -> None:
    host = redis_server.removeprefix("redis://")
    with library.Redis.from_url(redis_server) as client:
        client.config_set("requirepass", SECRETS["APP_KEY"])
    assert not ask(redis_server).passed
    for password, good in ((SECRETS["APP_KEY"], True), ("wrong-word-1", False)):
        url = f"redis://:{password}@{host}"
        lent = context(secret=lambda _, url=url: url)
        spec = RedisCheck(url_from=SecretRef(env="REDIS_URL"))
        outcome = redis.probe(spec, lent, attempt())
        assert outcome.passed is good
        assert password not in outcome.detail


def test_an_address_of_something_else() -> None:
    lent = context(secret=lambda _: "https://secret-host/")
    outcome = redis.probe(RedisCheck(url_from=SecretRef(env="REDIS_URL")), lent, attempt())
    assert outcome.final
    assert "secret-host" not in outcome.detail
