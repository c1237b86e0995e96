from __future__ import annotations

import pytest

from reconciler.core.references import has_user_info, names_secret, secret_refusal, secrets_in

LOOKS_SECRET = [
    "sbp_0123456789abcdef0123456789abcdef01234567", "sb_secret_abcdefgh", "ghp_abcdefghij",
    "github_pat_11ABCDEFG", "glpat-abcdefghij", "xoxb-1234567890-abc", "vcp_abcdefghijklmnopqrstuv",
    "npm_" + "a" * 36, "dckr_pat_abcdefghij", "AKIAIOSFODNN7EXAMPLE", "sk_live_abcdefghij1234",
    "https://hooks.slack.com/services/T000/B000/abc", "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----", "eyJhbGciOiJI.eyJyb2xlIjoi.c2lnbmF0",
    "redis://:pw@localhost", "postgres://me:pw@db/x", "host=db password=hunter2", "PGPASSWORD=hunter2",
    "Authorization: Bearer abcdefgh12345678", "--token=ghp_abcdefghij",
]  # fmt: skip

HARMLESS = [
    "", "sbp_", "SUPABASE_ACCESS_TOKEN", "vcr_cassettes", "ghp", "github_pat_", "4f9c2e1d" * 5,
    "redis://localhost:6379", "http://localhost:3000/a@b:c", "ssh://deploy@host", "password=$PGPASSWORD",
    "password={env}", "select password from x where password = 'y'", "bearer of bad news and more",
    "sha256:" + "0123456789abcdef" * 4, "dpl_9KxWmPq2", "a basic authentication-and-authorization",
]  # fmt: skip


@pytest.mark.parametrize("text", LOOKS_SECRET)
def test_what_looks_like_a_secret(text: str) -> None:
    for around in (text, f"x {text} y", f'"{text}"', f"# {text}"):
        assert list(secrets_in(around)), around
    (_, kind, match), *_ = secrets_in(text)
    assert match in text
    assert match not in secret_refusal(kind)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_does_not(text: str) -> None:
    assert not list(secrets_in(text))


@pytest.mark.parametrize("password", ["password", "<password>", "$PASSWORD", "${PW}", "***", "..."])
def test_placeholders_are_allowed_in_comments_only(password: str) -> None:
    text = f"postgres://user:{password}@host/db"
    assert not list(secrets_in(text, comment=True))
    assert list(secrets_in(text))


@pytest.mark.parametrize(
    "name", ["Authorization", "proxy-authorization", "Cookie", "X-Api-Key", "apikey", "X-Auth-Token",
             "x-vercel-protection-bypass", "X-Webhook-Secret"],
)  # fmt: skip
def test_headers_that_carry_secrets(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize(
    "name", ["Accept", "X-Tenant", "Content-Type", "X-Tokenizer", "Idempotency-Key"]
)
def test_headers_that_do_not(name: str) -> None:
    assert not names_secret(name)


def test_user_info() -> None:
    assert has_user_info("redis://:pw@h")
    assert has_user_info("http://me@h/")
    assert not has_user_info("http://h/@me")
    assert not has_user_info("http:" + "//[broken")
