"""The hash of one entry: what a later proof over the whole ledger is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue


def canonical(value: Mapping[str, JsonValue]) -> bytes:
    """JSON with sorted keys, no white space and no escapes beyond JSON's own: the same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def leaf_hash(columns: Mapping[str, JsonValue]) -> str:
    """SHA-256 over 0x00 and the canonical columns of an entry (its sequence number included, this hash excluded).

    The leading zero byte marks a leaf, as in RFC 6962 section 2.1, so that no inner node of a tree can pass for one.
    """
    return hashlib.sha256(b"\x00" + canonical(columns)).hexdigest()
