"""The report: Markdown tables of what was measured, and the README's part that holds the last ones kept.

Pure. Called by `__main__`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import contest as names
from bench.contest import Results
from bench.scales import Scale

BEGIN = "<!-- figures: written by `make bench`, `python -m bench --write` -->"
END = "<!-- end of figures -->"
_MIB = 1 << 20
_SHOWN_PACKAGES = 12


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def contest(results: Results) -> str:
    """Everybody's outage, time, processor and memory."""
    rows = [
        [
            name,
            _seconds(results.outage(name)),
            _seconds(results.seconds(name)),
            f"±{results.spread(name) / 2:.0%}",
            _seconds(results.cpu(name)),
            f"{results.peak(name) / _MIB:.0f} MiB",
            str(len(samples)),
        ]
        for name, samples in results.samples.items()
    ]
    head = ["command", "outage", "whole command", "spread", "processor", "memory", "runs"]
    return table(head, rows)


def ratios(results: Results) -> str:
    """Ours against the others, and what we aim for."""
    rows: list[list[str]] = []

    def add(what: str, value: float | None, goal: str, later: str) -> None:
        if value is not None:
            rows.append([what, f"{value:.2f}", goal, later])

    def against(ours: str, theirs: str, *, outage: bool, times: bool = False) -> float | None:
        if not {ours, theirs} <= results.samples.keys():
            return None
        of = results.outage if outage else results.seconds
        mine, other = of(ours), of(theirs)
        if not mine or not other:
            return None
        return other / mine if times else mine / other

    retag, plain, runbook = names.RETAG, names.PLAIN, names.RUNBOOK
    add("outage, images / `compose up`", against(retag, plain, outage=True), "≤ 1.3", "≤ 1.15")
    add("whole, images / `compose up`", against(retag, plain, outage=False), "≤ 2.5", "≤ 2")
    add("whole, images / `up --wait`", against(retag, names.WAIT, outage=False), "", "")
    longer = against(retag, runbook, outage=True, times=True)
    add("outage, runbook / images", longer, "≥ 5", "")
    longer = against(names.ROLLBACK, runbook, outage=True, times=True)
    add("outage, runbook / four systems", longer, "", "")
    longer = against(names.ROLLBACK, runbook, outage=False, times=True)
    add("whole, runbook / four systems", longer, "", "")
    longer = against(retag, names.ANSIBLE, outage=False, times=True)
    add("whole, Ansible / images", longer, "", "≥ 2")
    for name, goal, later in (
        (names.NOTHING, "< 0.8 s", "< 0.5 s"),
        (names.STATUS, "", "< 0.35 s"),
        (names.VERSION, "< 0.15 s", "< 0.12 s"),
    ):
        if name in results.samples:
            rows.append([f"seconds, {name}", _seconds(results.seconds(name)), goal, later])
    return table(["", "measured", "goal", "later"], rows)


def scale(title: str, found: Sequence[Scale]) -> str:
    """What things cost when there is more of them."""
    columns = list(found[0].cells)
    return table([title, *columns], [[each.count, *each.cells.values()] for each in found])


def startup(profiles: Mapping[str, Mapping[str, float]]) -> str:
    """Milliseconds of import by package, for some commands."""
    commands = list(profiles)
    packages: dict[str, float] = {}
    for profile in profiles.values():
        for package, milliseconds in profile.items():
            packages[package] = max(milliseconds, packages.get(package, 0.0))
    shown = sorted(packages, key=lambda name: -packages[name])[:_SHOWN_PACKAGES]
    rows = [[name, *(f"{profiles[c].get(name, 0.0):.0f}" for c in commands)] for name in shown]
    rest = [sum(v for k, v in profiles[c].items() if k not in shown) for c in commands]
    rows.append(["the rest", *(f"{value:.0f}" for value in rest)])
    rows.append(["**all**", *(f"**{sum(profiles[c].values()):.0f}**" for c in commands)])
    return table(["milliseconds of import", *commands], rows)


def inserted(readme: str, figures: str) -> str:
    """The README with new figures between its markers.

    Raises:
        ValueError: The markers are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("The README has no place for figures.")
    return f"{before}{BEGIN}\n\n{figures.strip()}\n\n{END}{after}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
