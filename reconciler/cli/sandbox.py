"""`sandbox`: a practice production on this machine, to rehearse a rollback before one is needed."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.exits import Exit
from reconciler.cli.session import output_option
from reconciler.core.errors import ReconcilerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.sandbox.practice_look import Seen
    from reconciler.sandbox.production import PracticeProduction

_FOLDER = "reconciler-sandbox"
_OK = 200
# The kinds that `sandbox.faults` knows, here so that `--help` loads nothing.
_KINDS = (
    "latency",
    "rate-limited",
    "error-before",
    "lost-answer",
    "error-after",
    "slow-aliases",
    "alias-fails",
    "queued",
    "refused",
)


def _folder_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument(
        "folder", metavar="[DIR]", default=_default_folder, type=click.Path(path_type=Path)
    )(command)


def _default_folder() -> str:
    """The present folder when it is a practice production, else the usual name below it."""
    return "." if Path(".sandbox", "sandbox.json").exists() else _FOLDER


@click.group(epilog="Example: reconciler sandbox up && reconciler sandbox break")
def sandbox() -> None:
    """A practice production on this machine: Git, Compose, Redis, PostgreSQL, Vercel, Supabase.

    Everything is real but the two vendors, whose APIs are served here. DIR is its folder,
    ./reconciler-sandbox by default. Several can run side by side.
    """


@sandbox.command(epilog="Example: reconciler sandbox up ./rehearsal --supabase")
@_folder_argument
@click.option("--name", help="Compose project and prefix of its images. Default: from DIR.")
@click.option("--supabase", is_flag=True, help="The spec goes through the Supabase API.")
def up(folder: Path, name: str | None, supabase: bool) -> int:
    """Make it, running a release that works; or start again what of it does not run."""
    production = _production(folder)
    started = time.monotonic()
    try:
        production.up(name=name, supabase=supabase)
    except (ReconcilerError, KeyboardInterrupt):
        _clear_half_made(production)
        raise
    shown = shlex.quote(str(folder))
    click.secho(f"Practice production ready in {time.monotonic() - started:.1f} s.", fg="green")
    click.echo(f"Next: reconciler sandbox break {shown}")
    return Exit.DONE


@sandbox.command("break", epilog="Example: reconciler sandbox break ./rehearsal")
@_folder_argument
def break_(folder: Path) -> int:
    """Deploy a bad release, as happens on a bad day. Nothing of the reconciler is involved."""
    production = _production(folder)
    started = time.monotonic()
    production.break_()
    code, text = production.health()
    click.secho(f"Broken in {time.monotonic() - started:.1f} s.", fg="red")
    click.echo(f"GET {production.health_url}: {code} {text}")
    click.echo(f"Next: cd {shlex.quote(str(folder))} && reconciler plan specs/prod.yaml")
    return Exit.DONE


@sandbox.command(epilog="Example: reconciler sandbox status -o json")
@_folder_argument
@output_option("table", "json")
def status(folder: Path, output: str) -> int:
    """Show what runs where, and how to look at it by hand."""
    production = _production(folder)
    from reconciler.sandbox.practice_look import look

    seen = look(production)
    if output == "json":
        click.echo(json.dumps(_status_json(production, seen), indent=2))
        return Exit.DONE
    for title, lines in _status_lines(production, seen):
        click.secho(title, bold=True)
        for name, text in lines:
            click.echo(f"  {name:<12} {text}")
    return Exit.DONE


@sandbox.command(epilog="Example: reconciler sandbox down ./rehearsal --keep")
@_folder_argument
@click.option("--keep", is_flag=True, help="Leave the files: repository, ledger, captures.")
def down(folder: Path, keep: bool) -> int:
    """Remove it: containers, images, volumes, servers, files. Works after a crash too."""
    removed = _production(folder).down(keep=keep)
    click.echo("Removed." if removed else f"There is no practice production in {folder}.")
    return Exit.DONE


@sandbox.command(
    epilog="Example: reconciler sandbox fault lost-answer --method POST --path '*/rollback/*'"
)
@click.argument("kind", metavar="KIND", type=click.Choice((*_KINDS, "list", "clear")))
@_folder_argument
@click.option("--api", type=click.Choice(("vercel", "supabase")), default="vercel")
@click.option("--method", default="*", metavar="METHOD", help="Requests it strikes. Default: all.")
@click.option("--path", default="*", metavar="PATTERN", help="{name} is one segment, * anything.")
@click.option("--times", type=click.IntRange(min=0), default=1, help="0: until cleared.")
@click.option("--skip", type=click.IntRange(min=0), default=0, help="Requests that pass first.")
@click.option("--status", type=int, help="Status of the two error kinds.")
@click.option("--delay-ms", type=int, help="Duration, where the kind has one.")
@click.option("--alias", metavar="HOST", help="Which alias fails.")
def fault(folder: Path, kind: str, api: str, **options: Any) -> int:
    """Let a practice API fail in a declared way.

    \b
    KIND is one of
      latency, refused                    slow, or no connection at all, for --delay-ms
      rate-limited, error-before          refused, nothing happens
      lost-answer, error-after            it happens, and nobody is told
      slow-aliases, alias-fails, queued   what a move of Vercel's aliases can do
      list, clear                         show what is armed, forget it
    """  # noqa: D301 - click needs the character, not two
    production = _production(folder)
    server = production.supabase if api == "supabase" else production.vercel
    if kind == "clear":
        server.call("DELETE", "/__faults", control=True)
    elif kind != "list":
        declared = {key: value for key, value in options.items() if value is not None}
        declared["times"] = declared["times"] or None
        server.call("POST", "/__faults", {"faults": [{"kind": kind, **declared}]}, control=True)
    answer = server.call("GET", "/__faults", control=True) if kind != "refused" else None
    rows = answer["faults"] if isinstance(answer, dict) else []
    for row in rows:
        times = row["times"] or "any number of"
        where = f"{row['method']} {row['path']}"
        click.echo(f"{row['kind']} on {where}: {row['state']}, struck {row['struck']} of {times}")
    if kind == "refused":
        click.echo(f"{api} refuses connections for {options['delay_ms']} ms.")
    elif not rows:
        click.echo(f"No faults are armed on {api}.")
    return Exit.DONE


def _production(folder: Path) -> PracticeProduction:
    from reconciler.sandbox.production import PracticeProduction

    return PracticeProduction(folder, lambda line: click.echo(f"  {line}", err=True))


def _clear_half_made(production: PracticeProduction) -> None:
    """A practice production that could not be made to the end is of no use to anybody."""
    record = production.places.read()
    if record is not None and not record.ready:
        try:
            production.down()
        except UsageError:
            raise
        except ReconcilerError as exc:
            click.echo(f"Something is left ({exc.message}); run `down` again.", err=True)


def _status_lines(
    production: PracticeProduction, seen: Seen
) -> list[tuple[str, list[tuple[str, str]]]]:
    from reconciler.sandbox.practice_look import release_of, servers

    record = production.record
    health = f"{seen.health[0] or ''} {seen.health[1]}".strip()
    database = seen.database
    rows = (
        ", ".join(f"{count} {table}" for table, count in database.rows.items()) if database else ""
    )
    branch = f" on {seen.branch}" if seen.branch else ", on no branch"
    containers = [
        (one.service, f"{one.state}  {one.image[7:19]}  since {one.started[:19]}Z")
        for one in seen.containers or []
    ]
    root = shlex.quote(str(production.root))
    vercel = f"vercel --api {production.vercel.url} list {production.project}"
    return [
        (
            f"Release vector ({release_of(production, seen)})",
            [
                ("commit", f"{seen.commit[:12]}{branch}"),
                ("migration", f"{database.version}  ({rows})" if database else "no answer"),
                ("deployment", seen.deployment or "no answer"),
                ("health", health),
            ],
        ),
        (f"Containers ({record.name})", containers or [("none", "or no engine")]),
        ("Servers", [(one.name, f"{one.address}  {one.state}") for one in servers(production)]),
        (
            "By hand",
            [
                ("git", f"cd {root} && git log --oneline --all"),
                ("docker", f"cd {root} && docker compose ps"),
                ("psql", f'{production.psql} "$(cat {production.places.database_url})"'),
                ("vercel", f"VERCEL_TOKEN=$(cat {production.places.vercel_token}) {vercel}"),
                ("reconciler", f"cd {root} && reconciler plan specs/prod.yaml"),
            ],
        ),
    ]


def _status_json(production: PracticeProduction, seen: Seen) -> dict[str, Any]:
    from reconciler.sandbox.practice_look import release_of, servers

    record = production.record
    return {
        "name": record.name,
        "root": str(production.root),
        "release": release_of(production, seen),
        "ports": record.ports.model_dump(),
        "commit": seen.commit,
        "branch": seen.branch,
        "containers": {one.service: [one.state, one.image] for one in seen.containers or []},
        "migration": seen.database.version if seen.database else None,
        "deployment": seen.deployment,
        "health": seen.health[0] or None,
        "healthy": seen.health[0] == _OK,
        "servers": {
            one.name: {"address": one.address, "pid": one.pid} for one in servers(production)
        },
    }
