"""Changing pinned values in the text of a spec, and nothing else. Used by `rollback --write-spec`.

The new value takes the place of the old one, character for character; comments, quotes, order,
indentation and line ends stay as they are, so that the change reads as one line in a diff. (A round
trip through a YAML library re-indents lists and folds long lines.) The result is read again and
compared before it is given out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from reconciler.core.errors import SpecInvalidError, UsageError
from reconciler.core.loader import decode
from reconciler.core.problems import Location, Problem, format_path, parse_path
from reconciler.core.yamltree import Node, grow, plain

#: A text that means itself to every YAML reader without quotes (numbers and words are sorted out below).
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9._/~^@+-]*(?::[A-Za-z0-9._/~^@+-]+)*")

_NAME = "<spec>"


def set_pins(text: str, pins: Mapping[str, str]) -> str:
    """The text with other values at the given paths.

    A field that is not there yet is added if its mapping is (`image` takes the place of `build` in a service).

    Args:
        text: A spec. Only its YAML has to be right.
        pins: New values by path, as `spec.git.commit` or `spec.docker.services["my.app"].image`.

    Returns:
        The new text; the same text when every value is there already.

    Raises:
        SpecInvalidError: The text cannot be read.
        UsageError: A path leads nowhere, or to something that is not one value.
    """
    for path, value in pins.items():
        text = _set(text, path, value)
    return text


def _set(text: str, path: str, value: str) -> str:
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    body = text.removeprefix(mark)
    root = _read(body)
    parent, key, location = _parent_of(root, path)
    node = parent.child(key)
    if node is not None and not isinstance(node.content, dict | list):
        if node.content == value:
            return text
        if node.text == "" and node.style is None:
            raise UsageError(f"{path} is empty in the spec", hint="write any value there first")
        end = node.end
        while node.style in {"|", ">"} and body[end - 1 : end] in {"\n", "\r", " "}:
            end -= 1  # a block text takes the line break behind it along
        new = body[: node.start] + _written(value, node) + body[end:]
    elif node is None and isinstance(parent.content, dict):
        new = _added(body, parent, key, value)
    else:
        raise UsageError(f"{path} is not one value in the spec")
    _check(root, new, location, value)
    return mark + new


def _read(body: str) -> Node:
    decoded = decode(body, _NAME)
    tree = grow(body, _NAME)
    problems = [decoded] if isinstance(decoded, Problem) else tree.problems
    if problems or tree.root is None:
        raise SpecInvalidError(problems)
    return tree.root


def _parent_of(root: Node, path: str) -> tuple[Node, str, Location]:
    """The mapping that holds (or would hold) the value at a path, and the key in it."""
    try:
        location = parse_path(path)
    except ValueError as exc:
        raise UsageError(f"{path!r} names no place in a spec") from exc
    node = root
    for part in location[:-1]:
        child = node.child(part)
        if child is None:
            raise UsageError(f"{path} is not in the spec: there is no {part!r}")
        node = child
    key = location[-1] if location else None
    if not isinstance(key, str):
        raise UsageError(f"{path!r} names no field of a spec")
    return node, key, location


def _added(body: str, parent: Node, key: str, value: str) -> str:
    """The text with a field more, or with `image` where `build` was."""
    field = f"{key}: {_quoted(value)}"
    content = parent.content
    if key == "image" and isinstance(content, dict) and "build" in content:
        start = min(parent.keys[name][1] for name in parent.keys)
        return body[:start] + field + body[_last_end(parent) :]
    if parent.style:  # {flow}
        comma = ", " if content else ""
        return body[: parent.start + 1] + field + comma + body[parent.start + 1 :]
    indent = " " * (parent.place.column - 1)
    newline = "\r\n" if "\r\n" in body else "\n"
    return body[: parent.start] + field + newline + indent + body[parent.start :]


def _last_end(parent: Node) -> int:
    children = parent.content.values() if isinstance(parent.content, dict) else ()
    return max(child.end for child in children)


def _written(value: str, old: Node) -> str:
    """The value in the notation of the one it replaces, where that can hold it."""
    if old.style == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    if old.style is None and _BARE.fullmatch(value) and _reads_back(value):
        return value
    return _quoted(value)


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _reads_back(value: str) -> bool:
    tree = grow(f"[{value}]", _NAME)
    return tree.root is not None and not tree.problems and plain(tree.root) == [value]


def _check(before: Node, new: str, location: Location, value: str) -> None:
    """Only the one value may have changed; anything else is a fault of this file."""
    wanted, made = plain(before), plain(_read(new))
    at = wanted
    for part in location[:-1]:
        at = at[part]  # type: ignore[index]  # the path was walked before
    if isinstance(at, dict):
        if location[-1] == "image" and "image" not in at:
            at.pop("build", None)
            at.pop("noCache", None)
        at[location[-1]] = value
    if wanted != made:
        raise AssertionError(f"changing {format_path(location)} would have changed more than it")
