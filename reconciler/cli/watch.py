"""`watch`: the loop as a command, with its rooms, its signals and its exit codes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TypeVar

import click

from reconciler.assembly import Parts, actor, ledger_url
from reconciler.audit.database import Database
from reconciler.audit.glance import Holding, glance
from reconciler.audit.queries import status_of
from reconciler.audit.statefile import StateFile
from reconciler.cli.events import Narrator, Voice
from reconciler.cli.exits import Exit
from reconciler.cli.session import database_option, here, output_option
from reconciler.core.duration import Duration
from reconciler.core.entry import Origin
from reconciler.core.errors import UsageError
from reconciler.core.redact import Redactor
from reconciler.core.status import EnvironmentStatus
from reconciler.engine import Engine
from reconciler.interruption import Interrupted, Interruption
from reconciler.look import Look, look
from reconciler.loop import Event, Kind, Loop
from reconciler.project import LoadedSpec
from reconciler.setting import Setting
from reconciler.specfolder import SpecFolder
from reconciler.wakeups import feed

_T = TypeVar("_T")
_SHORTEST = 0.1  # seconds between two looks
_LOOK_UP = 0.5  # seconds after which a signal is heard at the latest
_CODES = {
    Kind.ERROR: Exit.FAILED, Kind.REFUSED: Exit.USAGE, Kind.BUSY: Exit.HELD, Kind.STALLED: Exit.STALLED,
    Kind.APPROVAL: Exit.STALLED, Kind.SUSPENDED: Exit.STALLED, Kind.HELD: Exit.STALLED,
}  # fmt: skip
#: Which code `--once` exits with when environments differ.
_WORST_FIRST = (Exit.FAILED, Exit.USAGE, Exit.STALLED, Exit.HELD, Exit.DONE)


def _seconds(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    """A duration in seconds.

    Raises:
        click.BadParameter: It is none, or too short.
    """
    try:
        seconds = Duration.parse(text).seconds
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None
    if seconds < _SHORTEST:
        raise click.BadParameter("is shorter than 100ms")
    return seconds


@click.command(epilog="Example: reconciler watch specs/ --interval 1m -o json")
@click.argument("specs", required=False, type=click.Path(path_type=Path))
@click.option(
    "--interval",
    callback=_seconds,
    default="30s",
    metavar="DURATION",
    show_default=True,
    help="Time between two looks at an environment at rest.",
)
@click.option("--once", is_flag=True, help="Attend to each environment once, then exit.")
@output_option("text", "json")
@database_option
def watch(
    specs: Path | None, interval: float, once: bool, output: str, database: str | None
) -> int:
    """Keep production as the specs in SPECS say: on start, on every change, and on a timer.

    SPECS is a folder (default: the project's folder of specs) or one spec. A spec that is invalid, doubled or gone
    leaves its environment as it is. A release that was rolled back stays away while its spec is unchanged.

    Ctrl-C and SIGTERM end it after the present pass, a second one at once; whoever comes next goes on from there.
    """
    path = specs or here().specs_dir
    if not path.exists():
        raise UsageError(f"There is no folder of specs {path}.")
    redactor = Redactor()
    ending = _Ending()
    voice = Voice(output, redactor, ending.ask)
    rooms = _Rooms(database, redactor, voice.say, ending.interruption)
    loop = Loop(
        folder=SpecFolder(path),
        enter=rooms.enter,
        say=voice.say,
        clock=ending.interruption,
        interval=interval,
        bug=voice.bug,
    )
    ending.wakes.append(loop.wakeups.close)
    try:
        return _once(loop, ending, path) if once else _on(loop, ending, voice, path)
    finally:
        rooms.close()


def _on(loop: Loop, ending: _Ending, voice: Voice, path: Path) -> int:
    """Runs the loop until a signal ends it."""
    voice.say(Event(Kind.WATCHING, f"{path}, every {Duration.of(loop.interval)}"))
    unfed = threading.Event()
    feeder = threading.Thread(
        target=feed, args=(loop.folder.folder, loop.changed, unfed), name="files", daemon=True
    )
    feeder.start()
    try:
        ending.attend(loop.run)
    finally:
        unfed.set()
        feeder.join()
    voice.say(Event(Kind.ENDED, "Ended between two passes; everything is on record."))
    return ending.code


def _once(loop: Loop, ending: _Ending, path: Path) -> int:
    """Attends to each environment once; the worst outcome decides the exit code."""
    standing = ending.attend(loop.once)
    if standing is None:
        return ending.code
    if not standing:
        raise UsageError(f"There is no spec in {path}.")
    codes = {_CODES.get(event.kind, Exit.DONE) for event in standing.values() if event}
    return next(code for code in _WORST_FIRST if code in codes)


class _Ending:
    """How the command ends: the first signal asks for the end, the second one is the end."""

    def __init__(self) -> None:
        self.interruption = Interruption()
        self.wakes: list[Callable[[], None]] = []
        self.code = Exit.DONE

    def attend(self, work: Callable[[], _T]) -> _T | None:
        """Lets one worker thread do the work while this one listens to signals; None when it was interrupted."""
        before = {
            number: signal.signal(number, self._heard) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker") as worker:
                working = worker.submit(work)
                # Python runs signal handlers in this thread, and the system may hand a signal to another one: so this
                # one looks up now and then, instead of sleeping until the work is done.
                while not wait([working], timeout=_LOOK_UP).done:
                    pass
                return working.result()
        except Interrupted:
            return None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self) -> None:
        """Asks for the end after the present pass."""
        self.interruption.ask()
        for wake in self.wakes:
            wake()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.interruption.asked:
            os.write(2, b"Ended at once. Whoever comes next looks first, then goes on.\n")
            os._exit(Exit.INTERRUPTED)  # as safe as a crash, which every instant must survive
        self.code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.DONE
        self.ask()
        os.write(2, b"Ending after the present pass; once more to end at once.\n")


@dataclass(slots=True)
class _Rooms:
    """Makes the rooms of the loop. The ledger is opened once, whatever the number of environments."""

    database: str | None
    redactor: Redactor
    say: Callable[[Event], None]
    interruption: Interruption
    _ledgers: dict[str, Database] = field(default_factory=dict)

    def enter(self, source: LoadedSpec) -> _Room:
        """The room of one spec.

        Raises:
            Interrupted: The end was asked for.
        """
        if self.interruption.asked:
            raise Interrupted
        url = ledger_url(source.project, self.database)
        return _Room(self, source, url, Parts(source.project, self.redactor, source.path))

    def ledger(self, url: str) -> Database:
        """The open ledger behind an address."""
        if url not in self._ledgers:
            self._ledgers[url] = Database(url)
        return self._ledgers[url]

    def close(self) -> None:
        """Closes the ledger."""
        for ledger in self._ledgers.values():
            ledger.close()


@dataclass(frozen=True, slots=True)
class _Room:
    """One environment, ready to be looked at and acted on."""

    rooms: _Rooms
    source: LoadedSpec
    url: str
    parts: Parts

    def glance(self) -> tuple[EnvironmentStatus, Holding | None]:
        """Its status, and who holds it (for other databases than SQLite the engine asks that by itself)."""
        name = self.source.spec.name
        if self.url.startswith("sqlite:"):
            return glance(self.url, name)
        return status_of(self.rooms.ledger(self.url), name), None

    def look(self, status: EnvironmentStatus) -> Look:
        """One look without any intent to act."""
        source = self.source
        targets = self.parts.equip(source.spec).targets
        return look(status, source.spec, source.digest, targets, self.rooms.interruption)

    def converge(self, status: EnvironmentStatus) -> EnvironmentStatus:
        """Passes until it rests."""
        rooms, states = self.rooms, self.source.project.states_dir
        narrator = Narrator(self.source.spec.name, rooms.say)
        rooms.interruption.begin(status.phase)
        engine = Engine(
            Setting(
                database=rooms.ledger(self.url),
                states=states,
                equip=self.parts.equip,
                parse=self.parts.parse,
                redactor=rooms.redactor,
                clock=rooms.interruption,
                reporter=narrator,
                listeners=(StateFile(states), narrator, rooms.interruption),
                actor=actor(),
                origin=Origin.GITOPS,
            )
        )
        return engine.converge(self.source)
