"""The text of a spec into a spec, or into every problem it has, each at its exact place.

Three layers look at the text, and all they find is reported together: its bytes and YAML
(`yamltree`), secrets that do not belong in it (`references`), and its meaning (`spec`). What one
layer refused the next does not complain about again. No file is read here: see `project`.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import ValidationError

from reconciler.core.messages import explain
from reconciler.core.problems import Location, Place, Problem, format_path, in_reading_order
from reconciler.core.references import PLAIN_HEADER, names_secret, secret_refusal, secrets_in
from reconciler.core.spec import Spec
from reconciler.core.yamltree import MAX_BYTES, Node, Tree, grow, place_of, plain, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails

#: More problems than this do not help anybody.
MAX_PROBLEMS = 100

_BOMS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe\x00\x00": "UTF-32",
}


def parse_spec(data: str | bytes, file: str = "<spec>") -> Spec | list[Problem]:
    """The spec a text holds, or what is wrong with it.

    Args:
        data: The text, or its bytes as they were read.
        file: Name for the problems, as the user gave it.

    Returns:
        The spec; or a list of problems, never empty, in reading order. Never raises.
    """
    text = decode(data, file)
    if isinstance(text, Problem):
        return [text]
    tree = grow(text, file)
    problems = [*tree.problems, *_secrets(tree, text, file)]
    spec = None
    if tree.root is not None:
        problems += _empty_values(tree, file)
        try:
            spec = Spec.model_validate(plain(tree.root), by_alias=True, by_name=False)
        except ValidationError as exc:
            problems += _meaning(exc.errors(include_url=False), tree, file)
    if spec is not None and not problems:
        return spec
    return _limited(in_reading_order(problems))


def decode(data: str | bytes, file: str) -> str | Problem:
    """The text of a file's bytes, without byte order mark, or why it is none."""
    size = len(data) if isinstance(data, bytes) else len(data.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        return Problem(
            file,
            1,
            1,
            "",
            f"has {size} bytes; a spec has {MAX_BYTES} ({MAX_BYTES // 1024} KiB) at most",
        )
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    for mark, name in _BOMS.items():
        if data.startswith(mark):
            return Problem(file, 1, 1, "", f"is {name}; save it as UTF-8")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        before = data[: exc.start].decode("utf-8")
        place = place_of(before, len(before))
        return Problem(file, place.line, place.column, "", "is not UTF-8 text from here on")
    if "\x00" in text:
        place = place_of(text, text.index("\x00"))
        return Problem(file, place.line, place.column, "", "is binary: it holds a NUL byte")
    return text


def _secrets(tree: Tree, text: str, file: str) -> Iterator[Problem]:
    """Secrets in values and keys, by path; then those outside of them, in comments."""
    spans: list[tuple[int, int]] = []
    for location, node in walk(tree.root) if tree.root is not None else ():
        if node.text is not None:
            spans.append((node.start, node.end))
            message = _plain_secret(location, node)
            if message:
                tree.flagged.add(location)
                place = node.place
                yield Problem(file, place.line, place.column, format_path(location), message)
        for key, (place, start) in node.keys.items():
            spans.append((start, start + len(key) + 2))
            for _, kind, _ in islice(secrets_in(key), 1):
                tree.flagged.add((*location, key))
                # The path of the mapping: that of the key would show the secret.
                path = format_path(location)
                yield Problem(file, place.line, place.column, path, secret_refusal(kind))
    spans.sort()
    comments = (
        (offset, kind)
        for offset, kind, _ in secrets_in(text, comment=True)
        if not _within(offset, spans)
    )
    for offset, kind in islice(comments, MAX_PROBLEMS):
        place = place_of(text, offset)
        yield Problem(file, place.line, place.column, "", secret_refusal(kind))


def _within(offset: int, spans: list[tuple[int, int]]) -> bool:
    at = bisect_right(spans, (offset, sys.maxsize)) - 1
    return at >= 0 and offset < spans[at][1]


def _plain_secret(location: Location, node: Node) -> str | None:
    for _, kind, _ in secrets_in(node.text or ""):
        return secret_refusal(kind)
    in_header = location[-2:-1] == ("headers",) and isinstance(node.content, str)
    return PLAIN_HEADER if in_header and names_secret(str(location[-1])) else None


def _empty_values(tree: Tree, file: str) -> Iterator[Problem]:
    """Keys without a value: a forgotten line, or a field that should be left out."""
    assert tree.root is not None  # the caller has looked
    for location, node in walk(tree.root):
        if node.content is None and location not in tree.flagged:
            if location[-2:] == ("json", "equals"):
                continue
            tree.flagged.add(location)
            message = "is empty: give a value, or leave it out"
            place = node.place
            yield Problem(file, place.line, place.column, format_path(location), message)


def _meaning(errors: list[ErrorDetails], tree: Tree, file: str) -> Iterator[Problem]:
    """Problems from the model's errors, each at the place a human would look for it."""
    assert tree.root is not None  # the caller has looked
    for error in errors:
        location, node, parent = _find(error, tree.root)
        if any(location[:length] in tree.flagged for length in range(len(location) + 1)):
            continue
        message = explain(error, location, node)
        if message is None:
            continue
        place = _place(error["type"], location, node, parent, tree.root)
        yield Problem(file, place.line, place.column, format_path(location), message)


def _find(error: ErrorDetails, root: Node) -> tuple[Location, Node | None, Node]:
    """Where in the tree an error is: its location, its node if any, and the node around it.

    The model's own location also names members of unions, which are no places in the document.
    """
    node, parent = root, root
    location: Location = ()
    for part in error["loc"]:
        if (child := node.child(part)) is not None:
            parent, node, location = node, child, (*location, part)
    last = error["loc"][-1] if error["loc"] else None
    if error["type"] == "missing" and last is not None:
        return (*location, last), None, node
    return location, node, parent


def _place(kind: str, location: Location, node: Node | None, parent: Node, root: Node) -> Place:
    key = location[-1] if location else None
    if node is None:  # missing: the key of the mapping that lacks it
        return _key_place(location[:-1], root)
    unseen = node.text is None or (node.text == "" and node.style is None)
    if isinstance(key, str) and key in parent.keys and (unseen or kind == "extra_forbidden"):
        return parent.keys[key][0]
    return node.place


def _key_place(location: Location, root: Node) -> Place:
    node, place = root, root.place
    for part in location:
        child = node.child(part)
        if child is None:
            break
        place = node.keys[part][0] if isinstance(part, str) else child.place
        node = child
    return place


def _limited(problems: list[Problem]) -> list[Problem]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    kept, last = problems[:MAX_PROBLEMS], problems[MAX_PROBLEMS]
    rest = len(problems) - MAX_PROBLEMS
    return [*kept, Problem(last.file, last.line, last.column, "", f"and {rest} more problems")]
