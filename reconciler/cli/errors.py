"""How an error looks on stderr."""

from __future__ import annotations

import os

import click

from reconciler.core.errors import ReconcilerError, SpecInvalidError


def show_error(error: ReconcilerError) -> None:
    """An error, and what to do about it, on stderr."""
    if isinstance(error, SpecInvalidError):
        for problem in error.problems:
            click.echo(str(problem), err=True)
        return
    click.secho(f"Error: {error.message}", fg="red", err=True, color=colour())
    if error.hint:
        click.echo(f"Next: {error.hint}", err=True)


def colour() -> bool | None:
    """No colour where NO_COLOR is set (no-color.org); otherwise as the stream allows."""
    return False if os.environ.get("NO_COLOR") else None
