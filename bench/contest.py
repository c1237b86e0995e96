"""The contest: everybody on the same production, in turn, so that a busy machine is everybody's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.measure import Sample, median, spread
from bench.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterable

Say = Callable[[str], None]
#: A name, what is made broken before, what is measured.
Turn = tuple[str, Callable[[], None], Callable[[], Sample]]

PLAIN, WAIT, RETAG = "compose up", "compose up --wait", "reconciler, images"
RUNBOOK, ROLLBACK = "runbook script", "reconciler, four systems"
ANSIBLE = "ansible-playbook"
NOTHING, PLAIN_NOTHING = "apply, nothing to do", "compose up, nothing to do"
STATUS, VERSION = "status", "--version"


@dataclass
class Results:
    """Samples by the name of what was measured."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def add(self, name: str, sample: Sample) -> None:
        """One more repetition."""
        self.samples.setdefault(name, []).append(sample)

    def seconds(self, name: str) -> float:
        """Median of whole-command time."""
        return median([each.seconds for each in self.samples[name]])

    def cpu(self, name: str) -> float:
        """Median of processor time."""
        return median([each.cpu for each in self.samples[name]])

    def outage(self, name: str) -> float | None:
        """Median of outage; None for what has none."""
        known = [each.outage for each in self.samples[name] if each.outage is not None]
        return median(known) if known else None

    def peak(self, name: str) -> int:
        """Largest memory of all repetitions, in bytes."""
        return max(each.peak for each in self.samples[name])

    def spread(self, name: str) -> float:
        """How far the repetitions' whole-command times lie apart."""
        return spread([each.seconds for each in self.samples[name]])


def contend(shop: Shop, repetitions: int, say: Say, only: Iterable[str] = ()) -> Results:
    """All contenders, one after the other, as often as asked.

    Args:
        shop: Where.
        repetitions: How often.
        say: Told what comes next.
        only: Only these; all of them when empty.
    """
    results = Results()
    wanted = set(only)
    turns: list[Turn] = [
        (PLAIN, shop.break_containers, lambda: shop.plain(wait=False)),
        (RETAG, shop.break_containers, shop.retag),
        (WAIT, shop.break_containers, lambda: shop.plain(wait=True)),
        *_ansible(shop, say),
        (RUNBOOK, shop.break_everything, shop.runbook),
        (ROLLBACK, shop.break_everything, shop.rollback),
        (NOTHING, _nothing, lambda: shop.command("apply", "specs/prod.yaml", "--yes")),
        (PLAIN_NOTHING, _nothing, shop.plain_nothing),
        (STATUS, _nothing, lambda: shop.command("status", "prod")),
        (VERSION, _nothing, lambda: shop.command("--version")),
    ]
    for repetition in range(1, repetitions + 1):
        for name, prepare, measured in turns:
            if wanted and name not in wanted:
                continue
            prepare()
            sample = measured()
            if prepare is not _nothing:
                # The client's questions cost the machine more than most contenders: times are taken without them.
                prepare()
                shop.watched = True
                sample = replace(sample, outage=measured().outage)
                shop.watched = False
            results.add(name, sample)
            seen = f", outage {sample.outage:.2f} s" if sample.outage is not None else ""
            say(f"{repetition}/{repetitions}  {name}: {sample.seconds:.2f} s{seen}")
    return results


def _ansible(shop: Shop, say: Say) -> list[Turn]:
    missing = shop.without_ansible()
    if missing:
        say(f"left out: {ANSIBLE} ({missing})")
        return []
    return [(ANSIBLE, shop.break_containers, shop.ansible)]


def _nothing() -> None:
    """Nothing has to be broken."""
