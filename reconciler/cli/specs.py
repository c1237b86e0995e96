"""`validate` and `schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from reconciler.cli.exits import Exit
from reconciler.cli.session import output_option
from reconciler.core.errors import SpecInvalidError
from reconciler.core.problems import Problem
from reconciler.core.schema import schema as environment_schema
from reconciler.project import load_spec


@click.command(epilog="Example: reconciler validate specs/*.yaml")
@click.argument("specs", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option("table", "json")
def validate(specs: tuple[Path, ...], output: str) -> int:
    """Check SPECS. Every problem is shown at once, as file:line:column; nothing is touched."""
    problems: list[Problem] = []
    for path in specs:
        try:
            load_spec(path)
        except SpecInvalidError as exc:
            problems += exc.problems
        else:
            if output == "table":
                click.echo(f"{path}: valid")
    if output == "json":
        items = [
            {
                "file": item.file,
                "line": item.line,
                "column": item.column,
                "path": item.path,
                "message": item.message,
            }
            for item in problems
        ]
        click.echo(json.dumps({"valid": not problems, "problems": items}, indent=2))
    else:
        for problem in problems:
            click.echo(str(problem), err=True)
    return Exit.USAGE if problems else Exit.DONE


@click.command(epilog="Example: reconciler schema > specs/environment.schema.json")
def schema() -> int:
    """Print the JSON Schema (draft 2020-12) of specs, for editors."""
    click.echo(json.dumps(environment_schema(), indent=2))
    return Exit.DONE
