"""The demonstration: `python -m reconciler.sandbox.demo`, which `make demo` calls.

Makes a practice production, breaks it, lets the reconciler take it back, and then asks Git, Docker,
PostgreSQL, Vercel and the application themselves whether that is true. Exits with 0 only if all
agree, and leaves nothing behind. The proofs are in `demo_proof`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import reconciler
from reconciler.core.errors import ReconcilerError
from reconciler.sandbox import demo_proof as proof
from reconciler.sandbox.base_image import BUSYBOX_VARIABLE
from reconciler.sandbox.practice_look import look
from reconciler.sandbox.practice_redis import REDIS_VARIABLE
from reconciler.sandbox.production import PracticeProduction

_PREFIX = "reconciler-demo-"
#: Where `tools/parts.py` puts programs that the machine lacks, seen from the project's folder.
_PARTS = Path(".engine", "parts", "bin")
_INTERRUPTED = 130
_WIDTH = 42


class Demo:
    """One run of the demonstration.

    Args:
        production: Where it takes place; nothing is there yet.
        out: Where the story is told.
    """

    def __init__(self, production: PracticeProduction, out: TextIO) -> None:
        self._production = production
        self._out = out
        self._chapters = 0
        self._failed = 0

    def run(self) -> int:
        """Tells the whole story.

        Returns:
            0 if everything that was claimed is so, 1 otherwise.
        """
        began = time.monotonic()
        self._line("A practice production on this machine: Git, containers with Redis and volumes,")
        self._line("PostgreSQL with migrations, Vercel's API. It is taken back by one command.")
        with self._chapter("A production in good health"):
            self._production.up()
            self._vector()
        with self._chapter("A bad release goes out"):
            self._production.break_()
            self._vector()
        with self._chapter("What would the reconciler do?"):
            self._reconciler("plan", "specs/prod.yaml")
        with self._chapter("It takes production back"):
            self._reconciler("apply", "specs/prod.yaml", "--yes")
        with self._chapter("Is that true? Each system answers for itself"):
            self._proofs(proof.proofs(self._production), "wanted")
        if not self._failed:
            self._again()
        with self._chapter("What an auditor reads"):
            self._reconciler("history", "prod", "--run", "last")
        self._line()
        seconds = time.monotonic() - began
        verdict = "Everything agrees" if not self._failed else f"{self._failed} things do not agree"
        self._line(f"{verdict}. The demonstration took {seconds:.1f} s.")
        if self._failed:
            self._line("To look at it: run it again with --keep.")
        return 1 if self._failed else 0

    def _again(self) -> None:
        with self._chapter("The same command again changes nothing"):
            before = proof.traces(self._production)
            self._reconciler("apply", "specs/prod.yaml", "--yes")
            after = proof.traces(self._production)
            self._proofs(proof.unchanged(before, after), "before")

    @contextlib.contextmanager
    def _chapter(self, title: str) -> Iterator[None]:
        self._chapters += 1
        self._line()
        self._line(f"{self._chapters}. {title}")
        self._line()
        began = time.monotonic()
        yield
        self._line(f"   ({time.monotonic() - began:.1f} s)")

    def _vector(self) -> None:
        good, seen = self._production.good, look(self._production)
        database, wanted = seen.database, self._production.engine.images()
        rows = [("commit", seen.commit[:12], seen.commit == good.commit)]
        for one in seen.containers or []:
            image = self._production.engine.image(one.service, good.version)
            as_wanted = image not in wanted or wanted[image] == one.image
            rows.append((one.service, f"{one.image[7:19]}  {one.state}", as_wanted))
        if database:
            tables = ", ".join(f"{count} {table}" for table, count in database.rows.items())
            as_wanted = database.version == good.migration
            rows.append(("migration", f"{database.version}  {tables}", as_wanted))
        rows.append(("front end", str(seen.deployment), seen.deployment == good.deployment))
        status, text = seen.health
        rows.append(("health", f"{status} {text}", status == proof.OK))
        for name, value, as_wanted in rows:
            self._line(f"   {'✓' if as_wanted else '✗'} {name:<10} {value}")

    def _proofs(self, found: Sequence[proof.Proof], wanted: str) -> None:
        rows = [(one.asked, _short(one.answer), _short(one.wanted)) for one in found]
        asked, answer = (max(len(row[column]) for row in rows) for column in (0, 1))
        self._line(f"     {'asked':<{asked}}  {'found':<{answer}}  {wanted}")
        for row, one in zip(rows, found, strict=True):
            mark = "✓" if one.holds else "✗"
            self._line(f"   {mark} {row[0]:<{asked}}  {row[1]:<{answer}}  {row[2]}")
            self._failed += not one.holds

    def _reconciler(self, *arguments: str) -> None:
        """Runs the real command in a process of its own, and shows all it says."""
        self._line(f"   $ reconciler {' '.join(arguments)}")
        process = subprocess.Popen(
            [sys.executable, "-m", "reconciler", *arguments],
            cwd=self._production.root,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        with process:
            for line in process.stdout or ():
                self._line(f"   {line.rstrip()}")
        if process.returncode != 0:
            self._line(f"   ✗ exit code {process.returncode}")
            self._failed += 1

    def _line(self, text: str = "") -> None:
        self._out.write(f"{text}\n")
        self._out.flush()


def _environment() -> dict[str, str]:
    """Our own, without settings that would lead the reconciler to another ledger."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")}
    return {**kept, "PYTHONPATH": str(Path(reconciler.__file__).parents[1])}


def _short(text: str) -> str:
    """A value as a table shows it: ids are compared whole, and read by their beginning."""
    return f"{text[: _WIDTH - 3]}..." if len(text) > _WIDTH else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demonstration.

    Returns:
        0 if everything agreed, 1 if not or if something is missing, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reconciler.sandbox.demo", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--keep", action="store_true", help="leave the practice production running")
    options = parser.parse_args(arguments)
    for name, program in ((BUSYBOX_VARIABLE, "busybox"), (REDIS_VARIABLE, "redis-server")):
        if (_PARTS / program).exists() and (program == "busybox" or not shutil.which(program)):
            os.environ.setdefault(name, str((_PARTS / program).absolute()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _remove_orphans()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / "owner").write_text(str(os.getpid()), encoding="ascii")
    production = PracticeProduction(folder / "shop")
    keep = False
    try:
        code = Demo(production, sys.stdout).run()
        keep = options.keep
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; clearing up.\n")
        return _INTERRUPTED
    except ReconcilerError as exc:
        sys.stderr.write(f"Error: {exc.message}\n" + (f"Next: {exc.hint}\n" if exc.hint else ""))
        return 1
    else:
        return code
    finally:
        if keep:
            (folder / "owner").unlink()
            sys.stdout.write(f"Still there: cd {production.root} && reconciler sandbox status\n")
        else:
            _clear(folder)


def _clear(folder: Path) -> None:
    """Removes a demonstration; a second Ctrl-C does not stop it half way."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        PracticeProduction(folder / "shop").down()
        shutil.rmtree(folder)
    except ReconcilerError as exc:
        sys.stderr.write(f"Left in {folder}: {exc.message} {exc.hint}\n")
    finally:
        signal.signal(signal.SIGINT, before)


def _remove_orphans() -> None:
    """Removes what a killed demonstration left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            os.kill(int((folder / "owner").read_text(encoding="ascii")), 0)
        except ProcessLookupError:
            _clear(folder)
        except (OSError, ValueError):
            continue  # kept on purpose, just being made, or somebody else's


if __name__ == "__main__":
    sys.exit(main())
