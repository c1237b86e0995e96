"""Files around a spec: reading it safely, finding the project it belongs to, the project's settings.

The project root is the nearest folder above the spec that holds `reconciler.toml` or `.git`, else
the spec's own folder. `reconciler.toml` is optional:

    database = "sqlite:///states/audit.db"  # or {env = "LEDGER_URL"}, {file = "/run/secrets/ledger"}
    states = "states"                       # folder of state files, captures and the default ledger

    [defaults]
    specs = "specs"                         # where `watch` and `rollback ENV` look for specs

The CLI and the loop come here first.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Discriminator, Field, Tag, ValidationError

from reconciler.core.errors import SpecInvalidError, TerminalError, UsageError
from reconciler.core.fields import AnyPath, Line, RelPath
from reconciler.core.loader import decode, parse_spec
from reconciler.core.messages import explain
from reconciler.core.problems import Location, Place, Problem, format_path, in_reading_order
from reconciler.core.references import secret_refusal, secrets_in
from reconciler.core.section import SecretRef, Section
from reconciler.core.spec import Spec, canonical_digest, declared_paths
from reconciler.core.yamltree import MAX_BYTES, Node, grow, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG_NAME = "reconciler.toml"

_MAX_SECRET_BYTES = 64 * 1024
_TOML_PLACE = re.compile(r"\s*\(at line (\d+), column (\d+)\)")


class Defaults(Section):
    """What commands assume when they are not told."""

    specs: RelPath = "specs"


class Config(Section):
    """The contents of `reconciler.toml`."""

    database: (
        Annotated[
            Annotated[Line, Tag("url")] | Annotated[SecretRef, Tag("reference")],
            Discriminator(lambda given: "url" if isinstance(given, str) else "reference"),
        ]
        | None
    ) = None
    states: AnyPath = "states"
    defaults: Defaults = Field(default=Defaults())


@dataclass(frozen=True, slots=True)
class Project:
    """Where a spec lives.

    Attributes:
        root: Absolute folder that the spec's paths are relative to.
        config: Settings, with their defaults.
    """

    root: Path
    config: Config

    @property
    def states_dir(self) -> Path:
        """Folder of state files, captures and the default ledger; it may not exist yet."""
        return self.root / self.config.states

    @property
    def specs_dir(self) -> Path:
        """Folder in which specs are looked for."""
        return self.root / self.config.defaults.specs

    @property
    def defaults(self) -> Defaults:
        """What commands assume when they are not told."""
        return self.config.defaults

    @property
    def database_url(self) -> str | None:
        """Address of the ledger's database; None for the default file in the states folder.

        Raises:
            UsageError: It is given by a reference that leads nowhere.
        """
        given = self.config.database
        return read_secret(given, self.root) if isinstance(given, SecretRef) else given


@dataclass(frozen=True, slots=True)
class LoadedSpec:
    """A spec with everything known about where it came from.

    Attributes:
        path: Absolute path of the file.
        text: Its text, as it is kept in the ledger.
        spec: Its meaning.
        digest: The generation's identity: see `core.spec.canonical_digest`.
        project: Where it lives.
    """

    path: Path
    text: str
    spec: Spec
    digest: str
    project: Project


def load_spec(path: str | os.PathLike[str]) -> LoadedSpec:
    """Reads and checks a spec.

    Raises:
        SpecInvalidError: With every problem of the spec, or of the project's `reconciler.toml`.
    """
    name = os.fspath(path)
    data = _read_file(name)
    spec = parse_spec(data, name)
    if not isinstance(spec, Spec):
        raise SpecInvalidError(spec)
    project = find_project(path)
    text = data.decode("utf-8").removeprefix("\ufeff")
    if escapes := list(_escapes(spec, project.root, text, name)):
        raise SpecInvalidError(in_reading_order(escapes))
    return LoadedSpec(Path(name).absolute(), text, spec, canonical_digest(spec), project)


def find_project(spec_path: str | os.PathLike[str]) -> Project:
    """The project a spec belongs to (the file itself need not exist).

    Raises:
        SpecInvalidError: The project's `reconciler.toml` cannot be accepted.
    """
    folder = Path(os.path.abspath(spec_path)).parent  # noqa: PTH100  # also resolves `..`, unlike Path.absolute
    for candidate in (folder, *folder.parents):
        if (candidate / CONFIG_NAME).exists():
            return Project(candidate, _read_config(candidate / CONFIG_NAME))
        if (candidate / ".git").exists():
            return Project(candidate, Config())
    return Project(folder, Config())


def inside(root: Path, relative: str) -> Path:
    """The absolute path of a declared path, links followed.

    Raises:
        TerminalError: A link leads out of the project root.
    """
    real_root = root.resolve()
    path = (real_root / relative).resolve()
    if not path.is_relative_to(real_root):
        raise TerminalError(
            f"{relative} leads out of the project root by a link",
            hint=f"keep what production needs below {root}",
        )
    return path


def read_secret(reference: SecretRef, root: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The secret a reference leads to. It must never be shown, logged or stored.

    Args:
        reference: Where to look.
        root: Folder that relative file names belong to.
        environ: Environment variables.

    Returns:
        The secret, without the line break a file ends with.

    Raises:
        UsageError: There is nothing there, or nothing in it.
    """
    if reference.env is not None:
        secret = environ.get(reference.env, "")
    else:
        path = root / (reference.file or "")
        try:
            secret = _read_regular(path, _MAX_SECRET_BYTES).decode("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as exc:
            raise UsageError(f"the secret in {reference} cannot be read: {_reason(exc)}") from exc
    if not secret:
        raise UsageError(f"the secret in {reference} is empty or missing")
    return secret


def _escapes(spec: Spec, root: Path, text: str, name: str) -> Iterator[Problem]:
    for location, relative in declared_paths(spec):
        try:
            inside(root, relative)
        except (TerminalError, OSError, RuntimeError, ValueError) as exc:
            node = grow(text, name).root
            place = Place(1, 1)
            for part in location:
                node = node.child(part) if node is not None else None
                place = node.place if node is not None else place
            message = exc.message if isinstance(exc, TerminalError) else "is a ring of links"
            yield Problem(name, place.line, place.column, format_path(location), message)


def _read_config(path: Path) -> Config:
    name = str(path)
    text = decode(_read_file(name), name)
    if isinstance(text, Problem):
        raise SpecInvalidError([text])
    problems = [
        Problem(name, place.line, place.column, "", secret_refusal(kind))
        for offset, kind, _ in secrets_in(text, comment=True)
        for place in [place_of(text, offset)]
    ]
    if problems:
        raise SpecInvalidError(in_reading_order(problems))
    try:
        return Config.model_validate(tomllib.loads(text), by_alias=True, by_name=False)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        found = _TOML_PLACE.search(str(exc))
        place = Place(int(found[1]), int(found[2])) if found else Place(1, 1)
        message = f"is not valid TOML: {_TOML_PLACE.sub('', str(exc))}"
        raise SpecInvalidError([Problem(name, place.line, place.column, "", message)]) from exc
    except ValidationError as exc:
        raise SpecInvalidError(_config_problems(exc, text, name)) from exc


def _config_problems(exc: ValidationError, text: str, name: str) -> list[Problem]:
    problems = []
    for error in exc.errors(include_url=False):
        location: Location = tuple(
            part for part in error["loc"] if part not in {"url", "reference"}
        )
        value = error["input"]
        shown = "{...}" if isinstance(value, dict) else str(value).lower()
        content = value if isinstance(value, str | int | float | bool | dict | list) else None
        place = _toml_place(text, location)
        node = Node(place, 0, 0, content, shown)
        message = explain(error, location, node, Config) or "cannot be accepted"
        problems.append(Problem(name, place.line, place.column, format_path(location), message))
    return in_reading_order(problems)


def _toml_place(text: str, location: Location) -> Place:
    """Where a key stands; the reader of the standard library does not tell."""
    offset = 0
    for part in location:
        key = re.escape(str(part))
        pattern = re.compile(
            rf"^[ \t]*\[?[ \t]*(?P<key>[\"']?{key}[\"']?)[ \t]*[]=.]", re.MULTILINE
        )
        found = pattern.search(text, offset) or re.compile(rf"(?P<key>\b{key}\b)").search(
            text, offset
        )
        offset = found.start("key") if found else offset
    return place_of(text, offset)


def _read_file(name: str) -> bytes:
    try:
        return _read_regular(Path(name), MAX_BYTES)
    except (OSError, ValueError) as exc:
        raise SpecInvalidError([Problem(name, 1, 1, "", _reason(exc))]) from exc


def _read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, without ever waiting for a pipe or swallowing a device.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no regular file, or larger than the limit.
    """
    _refuse_special(path.stat(), limit)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    with os.fdopen(os.open(path, flags), "rb") as file:
        _refuse_special(os.fstat(file.fileno()), limit)  # it may have been exchanged meanwhile
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"has more than {limit} bytes; that is too large")
    return data


def _refuse_special(status: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ValueError("is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is a pipe, socket or device, not a file")
    if status.st_size > limit:
        raise ValueError(f"has {status.st_size} bytes; {limit} ({limit // 1024} KiB) at most")


def _reason(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return "is not UTF-8 text"
    if isinstance(exc, OSError):
        return f"cannot be read: {exc.strerror or type(exc).__name__}"
    return str(exc)
