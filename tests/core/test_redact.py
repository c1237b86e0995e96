"""Redaction: by value, by pattern, by key; nothing twice; and what the machine reads again stays what it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.redact import MASK, Redactor

_secrets = st.text(
    st.characters(codec="utf-8", exclude_characters="[]"), min_size=6, max_size=20
).filter(lambda text: len(text.strip()) >= 6 and text.strip() not in MASK)


@given(
    st.lists(_secrets, min_size=1, max_size=4),
    st.lists(st.text(max_size=8), max_size=5),
    st.randoms(),
)
def test_no_known_secret_is_left_wherever_it_stood(
    secrets: list[str], between: list[str], random: object
) -> None:
    text = "".join(
        f"{filler}{secret}" for filler, secret in zip(between, secrets * 2, strict=False)
    )
    cleaned = Redactor(secrets).text(text)
    for secret in secrets:
        if secret.strip() not in MASK:
            assert secret.strip() not in cleaned.replace(MASK, "\0")


@given(st.lists(_secrets, max_size=3), st.text(max_size=60))
def test_redacting_twice_changes_nothing_more(secrets: list[str], text: str) -> None:
    redactor = Redactor(secrets)
    once = redactor.text(
        text + "".join(secrets) + " token=abc password: 'x y' https://u:p@h/ Bearer abcdefghij"
    )
    assert redactor.text(once) == once


def test_of_overlapping_secrets_nothing_is_left() -> None:
    assert Redactor(["abcdefgh", "efghijkl"]).text("<abcdefghijkl>") == f"<{MASK}>"
    assert Redactor(["abcdefgh", "abcdefghijkl"]).text("<abcdefghijkl>") == f"<{MASK}>"


def test_each_line_of_a_secret_is_secret() -> None:
    redactor = Redactor(["first line of key\nsecond line of key\n"])
    assert redactor.text("it said: second line of key!") == f"it said: {MASK}!"


def test_a_secret_is_known_in_its_escaped_forms_too() -> None:
    secret = 'p@ss"w/rd%é'
    redactor = Redactor([secret])
    assert secret not in json.loads(f'"{redactor.text(json.dumps(secret)[1:-1])}"')
    assert (
        redactor.text("postgres://ada:p%40ss%22w%2Frd%25%C3%A9@db") == f"postgres://ada:{MASK}@db"
    )


def test_short_values_do_not_blank_out_innocent_text() -> None:
    assert Redactor(["on", "12345"]).text("on 12345") == "on 12345"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("postgres://ada:hunter2@db:5432/shop", f"postgres://ada:{MASK}@db:5432/shop"),
        ("postgres://ada:p@ss@db/shop", f"postgres://ada:{MASK}@db/shop"),
        ("redis://:hunter2@cache", f"redis://:{MASK}@cache"),
        ("http://localhost:3000/a@b", "http://localhost:3000/a@b"),
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {MASK}"),
        ("Authorization: Basic YWRhOmh1bnRlcjI=", f"Authorization: Basic {MASK}"),
        ("password=hunter2 user=ada", f"password={MASK} user=ada"),
        ("PGPASSWORD=hunter2 psql", f"PGPASSWORD={MASK} psql"),
        ("SUPABASE_ACCESS_TOKEN=abc", f"SUPABASE_ACCESS_TOKEN={MASK}"),
        ("--api-key: 'a b c' --verbose", f"--api-key: {MASK} --verbose"),
        ('{"token": "abc", "n": 1}', f'{{"token": {MASK}, "n": 1}}'),
        ("sbp_0123456789abcdef0123", MASK),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", MASK),
        ("tokenFrom: {env: VERCEL_TOKEN}", "tokenFrom: {env: VERCEL_TOKEN}"),
        ('42P01: relation "orders" does not exist', '42P01: relation "orders" does not exist'),
    ],
)
def test_what_looks_like_a_secret_is_masked_without_being_known(text: str, cleaned: str) -> None:
    assert Redactor().text(text) == cleaned


@pytest.mark.parametrize(
    "text", ["a." * 50_000, "a://b:" * 20_000, "password" * 20_000, "-----BEGIN " * 10_000]
)
def test_long_texts_take_no_long_time(text: str) -> None:
    assert Redactor(["unrelated"]).text(text)


@pytest.mark.parametrize(
    "key",
    ["password", "dbPassword", "API_KEY", "secrets", "cookie", "dsn", "accessKey", "authorization"],
)
def test_values_under_telling_keys_are_masked_whole(key: str) -> None:
    value = {key: ["a", {"b": "c"}, 7, None, True, ""]}
    assert Redactor().json(value) == {key: [MASK, {"b": MASK}, MASK, None, True, ""]}


def test_references_to_secrets_are_not_secret() -> None:
    value = {"tokenFrom": {"env": "VERCEL_TOKEN"}, "keyword": "x", "passwords_checked": 3}
    assert Redactor().json(value) == value


def test_keys_and_nested_values_are_cleaned() -> None:
    value = {"seen hunter2hunter2": [{"why": "hunter2hunter2"}]}
    assert Redactor(["hunter2hunter2"]).json(value) == {f"seen {MASK}": [{"why": MASK}]}


def test_a_password_that_is_also_a_name_does_not_change_what_is_read_again() -> None:
    redactor = Redactor(["postgres", "production", "docker", "4f9c2e1d" * 5, "restore", "volume"])
    body = {
        "decision": "resolved",
        "goal": {
            "wanted": {
                "docker.service.postgres.image": {
                    "key": "docker.service.postgres.image",
                    "value": "x",
                }
            }
        },
        "facts": [{"key": "git.commit", "value": "4f9c2e1d" * 5, "detail": "for production"}],
        "artifacts": [
            {"kind": "volume-backup", "subject": "postgres_data", "path": "captures/production/a"}
        ],
        "failure": {"phase": "restore", "message": "password postgres was refused"},
        "message": "docker says postgres",
    }
    cleaned = redactor.json(body)
    assert cleaned["goal"] == body["goal"]
    assert cleaned["artifacts"] == body["artifacts"]
    assert cleaned["facts"] == [
        {"key": "git.commit", "value": "4f9c2e1d" * 5, "detail": f"for {MASK}"}
    ]
    assert cleaned["failure"] == {"phase": "restore", "message": f"password {MASK} was refused"}
    assert cleaned["message"] == f"{MASK} says {MASK}"


@pytest.mark.parametrize(
    "secret", ["correct horse battery", "sbp-like_0123456789abcdefGHIJKL", "p#ssw0rd!"]
)
def test_what_cannot_be_a_name_is_masked_everywhere(secret: str) -> None:
    redactor = Redactor([secret])
    body = {
        "text": f"# {secret}",
        "facts": [{"key": "git.commit", "value": secret}],
        "run": {"pins": {"git": secret}},
    }
    assert secret not in json.dumps(redactor.json(body))


def test_a_specs_text_is_kept_as_it_was_written() -> None:
    text = "checks:\n- {name: health, http: {url: 'http://x', headers: {X-Token: {env: T}}}}\n"
    assert Redactor().json({"decision": "spec-accepted", "text": text})["text"] == text
