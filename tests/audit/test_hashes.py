"""The leaf hash: stable, canonical, and of the whole entry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.audit.hashes import canonical, leaf_hash
from reconciler.audit.journal import entry_columns
from reconciler.audit.plain import plain, plain_body
from reconciler.audit.tables import utc_text
from reconciler.core.entry import EntryKind
from tests.support.records import entry

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def _columns(**changes: Any) -> dict[str, Any]:
    made = entry(EntryKind.DECISION, body={"message": "é", "n": 1.5})
    return {**entry_columns(7, made), "at": utc_text(made.at), **changes}


def test_it_is_the_same_in_every_version_of_the_program() -> None:
    assert (
        leaf_hash(_columns()) == "1801ec6638d57684a28194adef695da83e46e46d719fd756e0bba6f1e25ad1fc"
    )


@pytest.mark.parametrize(
    "change",
    [{"seq": 8}, {"actor": "eve"}, {"body": {"message": "e", "n": 1.5}}, {"at": "2025-11-18T03:00:00.000001+00:00"},
     {"effect": "1/stop/docker/stop/app"}, {"run": "r2"}, {"reason": "Drift"}, {"generation": 2}],
)  # fmt: skip
def test_it_covers_every_column(change: dict[str, Any]) -> None:
    assert leaf_hash(_columns(**change)) != leaf_hash(_columns())


@given(st.dictionaries(st.text(), _json, max_size=5))
def test_equal_values_have_equal_bytes_whatever_their_order(value: dict[str, Any]) -> None:
    value = plain_body(value)
    turned = dict(reversed(value.items()))
    assert canonical(turned) == canonical(value)
    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.text(st.characters()) | st.floats(), st.text(st.characters()))
def test_plain_values_can_always_be_written_and_stay_what_they_are(value: Any, key: str) -> None:
    once = plain({key: [value]})
    json.dumps(once, allow_nan=False, ensure_ascii=False).encode()
    assert plain(once) == once
    assert "\\0" not in json.loads(json.dumps(once)).popitem()[0]


def test_a_leaf_is_no_inner_node() -> None:
    import hashlib

    assert leaf_hash({"a": 1}) == hashlib.sha256(b"\x00" + b'{"a":1}').hexdigest()
