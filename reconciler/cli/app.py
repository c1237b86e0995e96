"""The `reconciler` command: finds subcommands, loading only the one that is asked for; turns errors into exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import click

from reconciler import __version__
from reconciler.cli.errors import colour, show_error
from reconciler.cli.exits import Exit, exit_of
from reconciler.core.errors import ReconcilerError, TerminalError


class Command(NamedTuple):
    """Where a subcommand is found.

    Attributes:
        module: Its module below `reconciler.cli`.
        help: The line shown in the overview (kept here, so that the overview loads no command).
    """

    module: str
    help: str


COMMANDS = {
    "validate": Command("specs", "Check specs; nothing is touched."),
    "schema": Command("specs", "Print the JSON Schema of specs."),
    "plan": Command("apply", "Show what would change, in order; nothing is touched."),
    "apply": Command("apply", "Bring production to what a spec says."),
    "rollback": Command("rollback", "The emergency command: back to the last known good state."),
    "status": Command("status", "Show where environments stand now."),
    "points": Command("status", "List the states one can go back to."),
    "history": Command("status", "Tell what happened: runs, phases, effects."),
    "resume": Command("decisions", "Go on after a human has acted."),
    "suspend": Command("decisions", "Keep an environment from being changed."),
    "approve": Command("decisions", "Let a waiting run go on."),
    "reject": Command("decisions", "End a waiting run; nothing is touched."),
    "watch": Command("watch", "Reconcile on every change of a spec, and on a timer."),
    "sandbox": Command("sandbox", "A practice production on this machine."),
    "doctor": Command("doctor", "Check that this machine can do all that a spec needs."),
    "completion": Command("completion", "Print the shell completion script."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        where = COMMANDS.get(cmd_name)
        if where is None:
            return None
        module = importlib.import_module(f"reconciler.cli.{where.module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if close:
                raise click.UsageError(f"{exc.message} Did you mean {close[0]}?", ctx) from None
            raise


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "RECONCILER"},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or invalid spec, 3 stalled (a human must act), "
    "4 refused by policy, 5 held by another run, 130 interrupted.",
)
@click.version_option(__version__, prog_name="reconciler", message="%(prog)s %(version)s")
def cli() -> None:
    """Takes a whole production back: containers, database, front end and source, together or not at all.

    Example: reconciler plan specs/prod.yaml && reconciler apply specs/prod.yaml
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Returns:
        The exit code. No traceback ever reaches a user: a bug is written to a file that is named.
    """
    return _delivered(_run(arguments))


def _run(arguments: Sequence[str]) -> int:
    try:
        result = cli.main(
            list(arguments), prog_name="reconciler", standalone_mode=False, color=colour()
        )
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.Abort as exc:
        return _aborted(exc)
    except click.ClickException as exc:
        exc.show()
        return Exit.USAGE
    except ReconcilerError as exc:
        show_error(exc)
        return exit_of(exc)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit:
        return Exit.DONE  # so click says that the reader has left; our commands return their code
    except Exception as exc:  # noqa: BLE001 - a bug of ours, kept for its mender
        if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
            return _unwritten(exc)
        return _bug(exc)
    return int(result or 0)


def _delivered(code: int) -> int:
    """The exit code, once what was said is out: Python would turn a reader who left into a code of its own."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):
            return code or _unwritten(exc)
    return code


def _unwritten(exc: OSError) -> int:
    show_error(TerminalError(f"Something could not be written: {exc.strerror}."))
    return Exit.FAILED


def _aborted(exc: click.Abort) -> int:
    if isinstance(exc.__cause__, KeyboardInterrupt):  # click turns Ctrl-C into this
        return _interrupted()
    click.echo("Aborted; nothing was touched.", err=True)
    return Exit.INTERRUPTED


def _interrupted() -> int:
    message = "\nInterrupted. What was done is on record; the same command goes on from there."
    click.echo(message, err=True)
    return Exit.INTERRUPTED


def _bug(exc: Exception) -> int:
    from reconciler.core.redact import Redactor

    trace = "".join(traceback.format_exception(exc))
    with tempfile.NamedTemporaryFile(
        "w", prefix="reconciler-", suffix=".traceback", delete=False, encoding="utf-8"
    ) as file:
        file.write(Redactor().text(trace))
    click.secho(
        f"Error: a bug in reconciler ({type(exc).__name__}).", fg="red", err=True, color=colour()
    )
    click.echo(f"Next: look with `reconciler status`. The traceback is in {file.name}.", err=True)
    return Exit.FAILED
