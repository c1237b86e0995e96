"""YAML text into a tree of values that know their place, refusing what a spec has no use for.

Anchors, tags, several documents, directives, words that YAML readers disagree about: each is a way
for a file to mean something else than it seems to. The tree is grown from parse events in one pass,
so that a hostile file is refused before it is built. Resolution is stricter than YAML 1.2: there
are `true`, `false`, `null` and decimal numbers; all else is text. `loader` and `specedit` use it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)

from reconciler.core.problems import Location, Place, Problem, format_path
from reconciler.core.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A spec has a few kilobytes. The parser reads about one megabyte a second: this bounds the cost.
MAX_BYTES = 128 * 1024
MAX_DEPTH = 50
MAX_VALUES = 5_000
#: More digits are no number anyone means (Python itself gives up at 4300).
MAX_DIGITS = 18

_TRUE_FALSE = {"true": True, "false": False}
_NULL = frozenset({"", "~", "null"})
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+")
#: Text to one reader, boolean, null, number or merge to another (YAML 1.1 or 1.2).
_DISPUTED = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null)|<<|=|[-+]?\.(?i:inf|nan)"
    r"|[-+]?0[0-9_]+|[-+]?0[xob][0-9A-Fa-f_]+|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[-+]?[0-9][0-9_]*_[0-9_]*"
    r"|[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+)(?:[eE][-+]?[0-9]+)?"
)
_LONGEST_DISPUTED = 128
#: Control characters, lone surrogates, byte order marks inside, and characters that change the
#: direction of writing: what a reviewer sees would not be what is read.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)
#: The parser looks far ahead in such a row before it gives the first event.
_DEEP_ROW = re.compile(rf"(?:[\[{{] ?){{{MAX_DEPTH + 1}}}")
_TAB_INDENT = re.compile(r"^ *\t", re.MULTILINE)


@dataclass(slots=True)
class Node:
    """One value of the document.

    Attributes:
        place: Where it begins.
        start: Offset of its first character.
        end: Offset behind its last character (for a block collection: behind its last value).
        content: The value, list or mapping.
        text: Source text of a scalar, without quotes; None for collections.
        style: None for a plain scalar, else its quote or block sign; `{`, `[` or empty otherwise.
        keys: Where each key of a mapping begins, with the offset.
    """

    place: Place
    start: int
    end: int
    content: str | int | float | bool | list[Node] | dict[str, Node] | None
    text: str | None = None
    style: str | None = None
    keys: dict[str, tuple[Place, int]] = field(default_factory=dict)

    def child(self, part: str | int) -> Node | None:
        """The value under a key or position, or None."""
        if isinstance(self.content, dict) and isinstance(part, str):
            return self.content.get(part)
        if isinstance(self.content, list) and isinstance(part, int) and part < len(self.content):
            return self.content[part]
        return None


@dataclass(slots=True)
class Tree:
    """What a text was read as.

    Attributes:
        root: The document, as far as it could be read; None when it could not.
        problems: Everything refused on the way.
        flagged: Locations already refused, of which nothing more needs to be said.
    """

    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    flagged: set[Location] = field(default_factory=set)


class _Refused(Exception):  # noqa: N818  # a jump out of the parser, not an error of ours
    """Reading cannot go on."""


def grow(text: str, file: str) -> Tree:
    """The tree of a text. Never raises: whatever is wrong becomes a problem.

    Args:
        text: Decoded text without a byte order mark.
        file: Name for the problems.
    """
    grower = _Grower(text, file)
    try:
        grower.run()
    except _Refused:
        grower.tree.root = None
    except MarkedYAMLError as exc:
        grower.syntax_error(exc)
    except Exception as exc:  # noqa: BLE001  # a parser's own fault must not end in a traceback
        grower.broken(exc)
    return grower.tree


def plain(node: Node) -> object:
    """The values of a tree without their places."""
    if isinstance(node.content, dict):
        return {key: plain(child) for key, child in node.content.items()}
    if isinstance(node.content, list):
        return [plain(child) for child in node.content]
    return node.content


def walk(node: Node, at: Location = ()) -> Iterator[tuple[Location, Node]]:
    """Every value with its location, parents first."""
    yield at, node
    if isinstance(node.content, dict):
        for key, child in node.content.items():
            yield from walk(child, (*at, key))
    elif isinstance(node.content, list):
        for index, child in enumerate(node.content):
            yield from walk(child, (*at, index))


def place_of(text: str, offset: int) -> Place:
    """The position of an offset."""
    head = text[:offset]
    line_start = max(head.rfind("\n"), head.rfind("\r")) + 1
    breaks = head.count("\n") + head.count("\r") - head.count("\r\n")
    return Place(breaks + 1, offset - line_start + 1)


@dataclass(slots=True)
class _Frame:
    node: Node
    location: Location
    key: str | None = None
    next_key: bool = True


class _Grower:
    """Turns events into nodes; one for each text."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.tree = Tree()
        self.frames: list[_Frame] = []
        self.values = 0
        self.last = Place(1, 1)

    def run(self) -> None:
        self._check_characters()
        # Only events are used: "safe" is the fast way to them, "pure" gives the same places always.
        for event in YAML(typ="safe", pure=True).parse(self.text):
            self.last = _place(event)
            if isinstance(event, DocumentStartEvent):
                self._document(event)
            elif isinstance(event, CollectionEndEvent):
                self._close(event)
            elif isinstance(event, NodeEvent):
                self._node(event)
        if self.tree.root is None or self.tree.root.content is None:
            self._refuse(Place(1, 1), "is empty; `reconciler schema` says what belongs here")

    def syntax_error(self, exc: MarkedYAMLError) -> None:
        """A problem from the parser's error, in words that name the usual cause."""
        mark = exc.problem_mark or exc.context_mark
        message = str(exc.problem or "cannot be read")
        if "could not find expected ':'" in message:
            mark = exc.context_mark or mark
            message = "a key needs `: ` after it, or this text needs quotes"
        elif "mapping values are not allowed" in message:
            message = "`: ` does not belong here: check the indentation, or put the text in quotes"
        elif "unexpected end of stream" in message:
            mark = exc.context_mark or mark
            message = "the quote opened here is never closed"
        elif "'\\t'" in message:
            message = "a tab stands where only spaces may"
        else:
            message = f"is not valid YAML: {' '.join(message.split())}"
        self.tree.root = None
        place = Place(mark.line + 1, mark.column + 1) if mark else self.last
        self._problem(place, (), message)

    def broken(self, exc: Exception) -> None:
        """A problem from any other exception; its text may quote the file, so its kind must do."""
        self.tree.root = None
        self._problem(self.last, (), f"cannot be read as YAML ({type(exc).__name__})")

    def _check_characters(self) -> None:
        if match := _HIDDEN.search(self.text):
            code = f"U+{ord(match.group()):04X}"
            self._refuse(
                place_of(self.text, match.start()),
                f"holds an invisible character ({code}); remove it or write it as an escape",
            )
        if match := _DEEP_ROW.search(self.text):
            self._refuse(
                place_of(self.text, match.start()), f"is nested more than {MAX_DEPTH} levels deep"
            )
        if match := _TAB_INDENT.search(self.text):
            self._refuse(
                place_of(self.text, match.end() - 1), "is indented with a tab; YAML wants spaces"
            )

    def _document(self, event: DocumentStartEvent) -> None:
        if self.tree.root is not None:
            self._refuse(_place(event), "begins a second document; one file holds one environment")
        if event.version or event.tags:
            self._problem(_place(event), (), "has a YAML directive (%...), which is not accepted")

    def _node(self, event: NodeEvent) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            self._refuse(_place(event), f"has more than {MAX_VALUES} values")
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.node.content, dict) and frame.next_key:
            self._key(frame, event)
            return
        location: Location = ()
        if frame is not None:
            content = frame.node.content
            index = len(content) if isinstance(content, list) else 0
            location = (*frame.location, frame.key if frame.key is not None else index)
        self._check_node(event, location)
        node = self._make(event, location)
        self._attach(frame, node)
        if isinstance(node.content, dict | list):
            self.frames.append(_Frame(node, location))
            if len(self.frames) > MAX_DEPTH:
                self._refuse(node.place, f"is nested more than {MAX_DEPTH} levels deep")

    def _check_node(self, event: NodeEvent, location: Location) -> None:
        if isinstance(event, AliasEvent):
            self._flag(_place(event), location, "is an alias (*); write the value out")
            return
        if event.anchor:
            self._problem(_place(event), location, "has an anchor (&); write it without one")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            self._flag(_place(event), location, "has a tag (!); write the value without it")

    def _make(self, event: NodeEvent, location: Location) -> Node:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, AliasEvent):
            return Node(_place(event), start, end, None, "", None)
        if isinstance(event, CollectionStartEvent):
            mapping = isinstance(event, MappingStartEvent)
            style = self.text[end - 1 : end] if event.flow_style else ""
            return Node(_place(event), start, end, {} if mapping else [], None, style)
        if not isinstance(event, ScalarEvent):  # there is no other kind
            raise TypeError(type(event).__name__)
        if event.style is None:
            return Node(_place(event), start, end, self._resolve(event, location), event.value)
        if _HIDDEN.search(event.value):
            self._flag(_place(event), location, "holds an escaped control character")
        return Node(_place(event), start, end, event.value, event.value, event.style)

    def _resolve(self, event: ScalarEvent, location: Location) -> str | int | float | bool | None:
        text: str = event.value
        if text in _TRUE_FALSE:
            return _TRUE_FALSE[text]
        if text in _NULL:
            return None
        if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text):
            if len(text) > MAX_DIGITS:
                self._flag(
                    _place(event),
                    location,
                    f"is a number of {len(text)} digits; if it is text, put it in quotes",
                )
                return None
            return float(text) if "." in text else int(text)
        if _is_disputed(text):
            self._flag(_place(event), location, _disputed(text))
        return text

    def _key(self, frame: _Frame, event: NodeEvent) -> None:
        place = _place(event)
        if not isinstance(event, ScalarEvent):
            kind = "an alias" if isinstance(event, AliasEvent) else "a list or a mapping"
            self._refuse(place, f"has {kind} as a key; keys are text", frame.location)
        key: str = event.value
        location = (*frame.location, key)
        self._check_node(event, location)
        if event.style is None:
            if key == "<<":
                self._flag(place, location, "is a merge; write the fields out")
            elif key in _TRUE_FALSE or key in _NULL or _is_disputed(key):
                self._flag(
                    place,
                    location,
                    f"the key {shown(key)} is not text to all YAML readers; quote it",
                )
        elif _HIDDEN.search(key):
            self._flag(place, location, "a key holds an escaped control character")
        if key in frame.node.keys:
            first = frame.node.keys[key][0].line
            self._problem(place, location, f"is given twice; first in line {first}")
        else:
            frame.node.keys[key] = (place, event.start_mark.index)
        frame.key, frame.next_key = key, False

    def _attach(self, frame: _Frame | None, node: Node) -> None:
        if frame is None:
            self.tree.root = node
        elif isinstance(frame.node.content, list):
            frame.node.content.append(node)
        elif isinstance(frame.node.content, dict) and frame.key is not None:
            if node.text == "" and node.style is None:  # nothing is written: point at the key
                node.place = frame.node.keys[frame.key][0]
            frame.node.content.setdefault(frame.key, node)
            frame.key, frame.next_key = None, True
        if frame is not None:
            frame.node.end = max(frame.node.end, node.end)

    def _close(self, event: Event) -> None:
        done = self.frames.pop().node
        if done.style:
            done.end = event.end_mark.index
        if self.frames:
            parent = self.frames[-1].node
            parent.end = max(parent.end, done.end)

    def _problem(self, place: Place, location: Location, message: str) -> None:
        self.tree.problems.append(
            Problem(self.file, place.line, place.column, format_path(location), message)
        )

    def _flag(self, place: Place, location: Location, message: str) -> None:
        self.tree.flagged.add(location)
        self._problem(place, location, message)

    def _refuse(self, place: Place, message: str, location: Location = ()) -> NoReturn:
        self._problem(place, location, message)
        raise _Refused


def _place(event: Event) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def _is_disputed(text: str) -> bool:
    # Nothing disputed is longer, and the pattern is quadratic on hostile texts.
    return len(text) <= _LONGEST_DISPUTED and _DISPUTED.fullmatch(text) is not None


def _disputed(text: str) -> str:
    if re.fullmatch(r"(?i:y|yes|on|true|n|no|off|false)", text):
        meant = "true" if text.lower() in {"y", "yes", "on", "true"} else "false"
        return (
            f"`{text}` is {meant} to some YAML readers and text to others; "
            f"write {meant}, or put it in quotes"
        )
    return (
        f"{shown(text)} differs from one YAML reader to the next; if it is text, put it in quotes"
    )
