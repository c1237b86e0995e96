"""`python -m bench`: measures, prints tables, and with `--write` keeps them in bench/README.md.

Needs an engine that `docker` reaches; `make bench` brings one.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import contest, machine, report, scales, startup
from bench.measure import BenchError
from bench.shop import Shop
from reconciler.core.errors import ReconcilerError
from reconciler.sandbox.base_image import BUSYBOX_VARIABLE
from reconciler.sandbox.practice_redis import REDIS_VARIABLE
from reconciler.sandbox.production import PracticeProduction

_README = Path(__file__).with_name("README.md")
_PARTS = Path(__file__).parents[1] / ".engine" / "parts" / "bin"
_QUICK, _USUAL, _MOST_SCALED = 2, 5, 3
# What would make a measured command another than the one a user types.
_FOREIGN = ("COMPOSE_", "RECONCILER_", "VERCEL_", "SUPABASE_", "PG", "GIT_")
_SECTIONS = ("contest", "startup", "services", "entries", "commits", "volumes")


def main() -> int:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} repetitions, not {_USUAL}")
    parser.add_argument("--repeat", type=int, metavar="N", help="this many repetitions")
    parser.add_argument("--write", action="store_true", help="keep the figures in bench/README.md")
    parser.add_argument("--only", action="append", choices=_SECTIONS, help="only this part")
    arguments = parser.parse_args()
    repetitions = arguments.repeat or (_QUICK if arguments.quick else _USUAL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _clean_environment()
    figures = []
    try:
        for part in measure(repetitions, set(arguments.only or _SECTIONS)):
            print(part, end="\n\n", flush=True)
            figures.append(part)
    except (BenchError, ReconcilerError) as exc:
        _say(str(exc))
        return 1
    if arguments.write:
        text = report.inserted(_README.read_text(encoding="utf-8"), "\n\n".join(figures))
        _README.write_text(text, encoding="utf-8")
        _say(f"written to {_README}")
    return 0


def measure(repetitions: int, sections: set[str]) -> Iterator[str]:
    """Measures; gives the report part by part."""
    yield f"Measured on: {machine.facts()}."
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-") as folder:
        scratch = Path(folder)
        if sections & {"contest", "startup"}:
            yield from _on_a_shop(scratch, repetitions, sections)
        name = f"bench{secrets.token_hex(3)}"
        place = scales.Place(scratch, name, min(repetitions, _MOST_SCALED))
        for section, title, measured in (
            ("services", "services", scales.services),
            ("entries", "ledger entries", scales.entries),
            ("commits", "commits", scales.commits),
            ("volumes", "volume", scales.volumes),
        ):
            if section in sections:
                yield f"### More: {title}"
                yield report.scale(title, measured(place, _say))


def _on_a_shop(scratch: Path, repetitions: int, sections: set[str]) -> Iterator[str]:
    with _shop(scratch) as shop:
        if "contest" in sections:
            results = contest.contend(shop, repetitions, _say)
            yield "### Side by side"
            yield report.contest(results)
            yield report.ratios(results)
        else:
            contest.contend(shop, 1, _say, only=[contest.ROLLBACK])
        if "startup" in sections:
            yield "### Start-up"
            yield report.startup(_profiles(shop))


def _profiles(shop: Shop) -> dict[str, dict[str, float]]:
    commands = {
        "`--version`": ["--version"],
        "`status`": ["status", "prod"],
        "`apply`, nothing to do": ["apply", "specs/prod.yaml", "--yes"],
    }
    _say("start-up")
    return {
        title: startup.profile(arguments, cwd=shop.root) for title, arguments in commands.items()
    }


@contextmanager
def _shop(scratch: Path) -> Iterator[Shop]:
    production = PracticeProduction(scratch / "shop", _say)
    try:
        production.up(name=f"bench{secrets.token_hex(3)}")
        production.break_()
        yield Shop(production)
    finally:
        _say("taking the practice production down")
        production.down()


def _clean_environment() -> None:
    """Measured commands find what a user's shell has; Python may keep what it compiles, as after an installation."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) and name not in {BUSYBOX_VARIABLE, REDIS_VARIABLE}:
            del os.environ[name]
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(name, None)
    for variable, program in ((BUSYBOX_VARIABLE, "busybox"), (REDIS_VARIABLE, "redis-server")):
        if (_PARTS / program).exists():
            os.environ.setdefault(variable, str(_PARTS / program))
    os.environ["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1"  # a rebuilt image would be another one


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
