from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core.duration import Duration
from reconciler.core.fields import LAST_KNOWN_GOOD
from reconciler.core.loader import parse_spec
from reconciler.core.spec import (
    Git,
    Spec,
    canonical_digest,
    canonical_json,
    declared_paths,
    last_known_good_fields,
)
from tests.core.corpus_cases import HEAD

EXAMPLE = (Path(__file__).parents[2] / "specs/prod.yaml").read_text("utf-8")


def parsed(text: str) -> Spec:
    spec = parse_spec(text)
    assert isinstance(spec, Spec), "\n".join(map(str, spec))
    return spec


def under_spec(*lines: str) -> Spec:
    return parsed(HEAD + "".join(f"  {line}\n" for line in lines))


def test_the_example_is_read_as_it_says() -> None:
    spec = parsed(EXAMPLE)

    assert spec.name == "prod"
    assert spec.git
    assert spec.git.commit == "v0.0.9"
    assert spec.docker
    assert spec.docker.services["app"].image == "omniops-app:v0.0.9"
    assert spec.docker.services["worker"].build
    assert spec.database
    assert spec.database.migration == "20251117000000"
    assert spec.database.supabase
    assert spec.database.supabase.token_from.env == "SUPABASE_ACCESS_TOKEN"
    assert spec.vercel
    assert spec.vercel.deployment == "dpl_9KxWmPq2"
    assert [check.kind for check in spec.verify.checks] == [
        "http", "tcp", "redis", "sql", "sql", "container", "command",
    ]  # fmt: skip
    assert spec.verify.soak
    assert spec.verify.soak.duration.seconds == 900
    assert spec.policy.recovery_targets.total == Duration.parse("20m")


def alternatives() -> list[str]:
    """The example, once for each `#or` in it, with the lines above exchanged for those of the `#or`."""
    lines = EXAMPLE.splitlines()
    found = []
    for at, line in enumerate(lines):
        indent, is_or, instead = line.partition("#or ")
        if not is_or or indent.strip() or instead.startswith(" "):
            continue
        end = next(i for i in range(at, len(lines)) if not lines[i].strip().startswith("#or "))
        block = [indent + other.partition("#or ")[2] for other in lines[at:end]]
        begin = at - 1
        while lines[begin].startswith(f"{indent} "):
            begin -= 1  # up to the key the alternative stands for
        if instead.startswith("equals"):
            begin -= 1  # it stands for min and max
        found.append("\n".join([*lines[:begin], *block, *lines[end:]]) + "\n")
    return found


@pytest.mark.parametrize("text", alternatives())
def test_the_alternatives_in_the_example_are_right(text: str) -> None:
    assert len(alternatives()) == 4
    assert parsed(text) != parsed(EXAMPLE)


def test_everything_but_the_pins_has_a_default() -> None:
    spec = under_spec(
        "git: {commit: HEAD~1}",
        "docker: {project: omniops}",
        "database: {postgres: {dsnFrom: {env: D}}, migrations: db/migrations, migration: '7'}",
        "vercel: {project: omniops, tokenFrom: {file: /run/secrets/v}, deployment: a-b.vercel.app}",
    )
    assert spec.git == Git(commit="HEAD~1", repository=".", dirty="refuse")
    assert spec.docker
    assert spec.docker.compose == ("docker-compose.yml",)
    assert spec.docker.services == {}
    assert spec.database
    assert spec.database.rollbacks == "db/rollbacks"
    assert spec.vercel
    assert spec.vercel.api_url == "https://api.vercel.com"
    assert spec.verify.timeout.seconds == 120
    assert spec.verify.checks == ()
    assert (spec.policy.on_failure, spec.policy.max_attempts) == ("compensate", 3)
    assert not spec.policy.allow_data_loss


@pytest.mark.parametrize(
    ("migrations", "rollbacks"),
    [("supabase/migrations", "supabase/rollbacks"), ("migrations", "rollbacks"),
     ("./db/up/", "db/rollbacks"), ("a/../b/m", "b/rollbacks")],
)  # fmt: skip
def test_down_files_lie_beside_the_up_files(migrations: str, rollbacks: str) -> None:
    spec = under_spec(
        "database:",
        "  postgres: {dsnFrom: {env: D}}",
        f"  migrations: {migrations}",
        "  migration: '1'",
    )
    assert spec.database
    assert spec.database.rollbacks == rollbacks


@pytest.mark.parametrize(
    "commit",
    ["4f9c2e1d", "4f9c2e1d" * 5, "v0.0.9", "main", "feature/x-1", "HEAD~1", "HEAD^^", "release_2"],
)
def test_revisions(commit: str) -> None:
    spec = under_spec(f"git: {{commit: {commit}}}")
    assert spec.git
    assert spec.git.commit == commit


@pytest.mark.parametrize(
    "image",
    ["app:1", "omniops-app:v0.0.9", "ghcr.io/acme/app:v1", "localhost:5000/a/b:x", "sha256:" + "a" * 64,
     "app@sha256:" + "0" * 64, "app:1@sha256:" + "f" * 64, "a__b/c-d:1", "redis:7.2"],
)  # fmt: skip
def test_images(image: str) -> None:
    spec = under_spec(f'docker: {{project: p, services: {{app: {{image: "{image}"}}}}}}')
    assert spec.docker
    assert spec.docker.services["app"].image == image


def test_secret_like_words_in_harmless_places_are_left_alone() -> None:
    under_spec(
        "# dsn: postgres://user:password@host/db, redis://:$PASSWORD@host; PGPASSWORD=$SECRET",
        "# basic authentication-and-authorization is not used",
        "docker: {project: p, services: {vcr_cassettes: {image: 'a:1'}, sk-runner: {image: 'a:1'}}}",
        "verify:",
        "  checks:",
        "    - {name: a, http: {url: 'http://localhost:3000/@me?tab=1', headers: {X-Tenant: acme}}}",
        "    - {name: b, command: [./check, --password-file=/run/secrets/pw, 'a@b.c']}",
    )


def test_last_known_good_is_allowed_for_each_pin() -> None:
    spec = under_spec(
        "git: {commit: last-known-good}",
        "docker:",
        "  project: p",
        "  services: {my.app: {image: last-known-good}, worker: {image: 'a:1'}, x: {build: true}}",
        "database: {postgres: {dsnFrom: {env: D}}, migrations: m, migration: last-known-good}",
        "vercel: {project: p, tokenFrom: {env: T}, deployment: last-known-good}",
    )
    assert last_known_good_fields(spec) == [
        "spec.git.commit",
        'spec.docker.services["my.app"].image',
        "spec.database.migration",
        "spec.vercel.deployment",
    ]
    assert last_known_good_fields(parsed(EXAMPLE)) == []
    assert LAST_KNOWN_GOOD == "last-known-good"


def test_declared_paths_name_their_place() -> None:
    paths = dict(declared_paths(parsed(EXAMPLE)))
    assert paths["spec", "docker", "compose", 0] == "docker-compose.yml"
    assert paths["spec", "docker", "volumes", "uploads", "restore"].startswith("backups/")
    assert paths["spec", "database", "rollbacks"] == "supabase/rollbacks"
    assert len(paths) == 6


def test_a_spec_cannot_be_changed() -> None:
    spec = parsed(EXAMPLE)
    with pytest.raises(ValidationError, match="frozen"):
        spec.metadata.name = "other"  # type: ignore[misc]


def test_python_may_use_its_own_names() -> None:
    spec = Spec.model_validate(
        {
            "api_version": "reconciler/v1",
            "kind": "Environment",
            "metadata": {"name": "prod"},
            "body": {
                "database": {
                    "postgres": {"dsn_from": {"env": "D"}},
                    "migrations": "m",
                    "migration": "1",
                    "lock_timeout": Duration.parse("1s"),
                }
            },
        }
    )
    assert spec == under_spec(
        "database:",
        "  lockTimeout: 1000ms",
        "  migration: '1'",
        "  migrations: m",
        "  postgres: {dsnFrom: {env: D}}",
    )


class TestDigest:
    BASE = ("git: {commit: v1}", "verify: {timeout: 90s}")

    @pytest.mark.parametrize(
        "lines",
        [
            ("# a comment", "git:", "  commit: 'v1' # why", "verify: {timeout: 1m30s}"),
            ("verify: {timeout: 90000ms}", "git: {commit: v1}"),
            (
                "git: {dirty: refuse, repository: ., commit: v1}",
                "verify: {timeout: 90s, checks: []}",
            ),
            (*BASE, "policy: {onFailure: compensate, recoveryTargets: {}}"),
        ],
    )
    def test_notation_makes_no_new_generation(self, lines: tuple[str, ...]) -> None:
        assert canonical_digest(under_spec(*lines)) == canonical_digest(under_spec(*self.BASE))

    @pytest.mark.parametrize(
        "lines",
        [
            ("git: {commit: v2}", "verify: {timeout: 90s}"),
            ("git: {commit: v1}",),
            (*BASE, "policy: {onFailure: halt}"),
            (*BASE, "docker: {project: p}"),
        ],
    )
    def test_meaning_does(self, lines: tuple[str, ...]) -> None:
        assert canonical_digest(under_spec(*lines)) != canonical_digest(under_spec(*self.BASE))

    def test_is_kept_over_releases(self) -> None:
        # This value is in the ledgers of users: another one makes every spec a new generation.
        assert (
            canonical_digest(under_spec(*self.BASE))
            == "6ca3407544143e7b43ceb8e3b03ef2929a1249ff741ec74be843d807b5118083"
        )

    def test_canonical_json_reads_back(self) -> None:
        import json

        spec = parsed(EXAMPLE)
        data: dict[str, Any] = json.loads(canonical_json(spec))
        assert Spec.model_validate(data, by_alias=True, by_name=False) == spec

    @given(st.permutations(["git: {commit: v1}", "docker: {project: p}", "verify: {timeout: 1m}"]))
    def test_order_does_not_matter(self, lines: list[str]) -> None:
        one = canonical_digest(under_spec(*sorted(lines)))
        assert canonical_digest(under_spec(*lines)) == one
