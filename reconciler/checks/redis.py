"""The `redis` check: a server that answers PING."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reconciler.checks.base import Attempt, CheckContext, Outcome, failed, passed

if TYPE_CHECKING:
    from reconciler.core.spec_verify import RedisCheck

_DEFAULT_PORT = 6379


def probe(spec: RedisCheck, context: CheckContext, attempt: Attempt) -> Outcome:
    """Pings once."""
    url = spec.url or (context.reveal(spec.url_from) if spec.url_from else "")
    try:
        parts = urlsplit(url)
        where = f"redis {parts.hostname or 'localhost'}:{parts.port or _DEFAULT_PORT}"
        if parts.password:
            context.redactor.learn(parts.password)
        client = redis.Redis.from_url(
            url,
            socket_timeout=attempt.timeout,
            socket_connect_timeout=attempt.timeout,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        return failed(
            "redis: the address is none that Redis knows (redis://host:port/0)", final=True
        )
    try:
        client.ping()
    except redis.TimeoutError:
        return failed(f"{where}: expected PONG, none within {attempt.timeout:.3g} s")
    except (redis.RedisError, OSError) as exc:
        return failed(f"{where}: expected PONG, got: {exc}")
    finally:
        client.close()
    return passed(f"{where}: PONG")
