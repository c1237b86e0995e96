from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler.core.loader import parse_spec
from reconciler.core.schema import schema, schema_text
from reconciler.core.spec import Spec
from reconciler.core.yamltree import grow, plain
from tests.core.corpus_cases import Case, cases

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(schema())

#: What only the model can see: arithmetic, other parts of the document, the text itself.
BEYOND = (
    "sections: git: commit is an option", "sections: git: commit is a range",
    "sections: git: commit is a reflog entry", "sections: git: repository outside",
    "sections: docker: compose file outside", "sections: docker: image without tag",
    "sections: docker: build without git", "sections: docker: windows path",
    "sections: docker: no cache without build", "sections: docker: volume to last-known-good",
    "sections: docker: host and context", "sections: database: migrations outside",
    "sections: database: timeout of zero", "sections: database: timeout of years",
    "checks: same name twice", "checks: sql without database", "checks: sql with contradiction",
    "checks: container without docker", "checks: soak shorter than its interval",
    "secrets: ",
)  # fmt: skip

MEANING = [
    case
    for case in cases()
    if not case.name.startswith(("yaml: ", *BEYOND)) and "escaped" not in case.flags
]


def values(text: str) -> Any:
    root = grow(text, "f").root
    assert root is not None
    return plain(root)


def test_the_schema_is_one() -> None:
    made = schema()
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["$id"] == "urn:reconciler:schema:reconciler:v1"
    jsonschema.Draft202012Validator.check_schema(made)


def test_the_kept_schema_is_the_generated_one() -> None:
    kept = (ROOT / "specs/environment.schema.json").read_text("utf-8")
    assert kept == schema_text(), "run: reconciler schema > specs/environment.schema.json"


def test_the_example_follows_the_schema_and_points_to_it() -> None:
    text = (ROOT / "specs/prod.yaml").read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=./environment.schema.json\n")
    VALIDATOR.validate(values(text))


def test_the_example_shows_every_field() -> None:
    text = (ROOT / "specs/prod.yaml").read_text("utf-8")
    for name, definition in schema()["$defs"].items():
        for field in definition["properties"]:
            assert f"{field}:" in text, f"{name}.{field} is not explained"


def test_every_field_is_described_and_no_default_is_null() -> None:
    def walk(node: Any, at: str) -> None:
        if isinstance(node, dict):
            assert node.get("default", 0) is not None, at
            assert node.get("type") != "null", at
            for key, value in node.items():
                walk(value, f"{at}/{key}")
        elif isinstance(node, list):
            for value in node:
                walk(value, at)

    walk(schema(), "")
    for name, definition in schema()["$defs"].items():
        for field, rule in definition["properties"].items():
            assert rule.get("description") or "$ref" in rule or name == "SecretRef", (name, field)


@pytest.mark.parametrize("case", MEANING, ids=lambda case: case.name)
def test_editors_refuse_what_the_model_refuses(case: Case) -> None:
    assert list(VALIDATOR.iter_errors(values(case.text)))


@pytest.mark.parametrize(
    "case", [c for c in cases() if c.name.startswith(BEYOND)], ids=lambda case: case.name
)
def test_what_editors_cannot_see_is_refused_by_the_model(case: Case) -> None:
    assert not isinstance(parse_spec(case.text), Spec)


def test_the_text_is_stable_json() -> None:
    assert json.loads(schema_text()) == schema()
    assert schema_text().endswith("}\n")
