"""Comparison: a wanted vector against an observed one, fact by fact, in a stable order."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from reconciler.core.facts import TARGET_ORDER, Goal, Observation, target_of


class Verdict(StrEnum):
    """How one wanted fact stands."""

    EQUAL = "equal"
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    PENDING = "pending"


class Comparison(BaseModel):
    """One wanted fact beside what was seen.

    Attributes:
        key: The fact's key.
        verdict: How it stands.
        wanted: The wanted value; None means wanted absent.
        observed: The observed value; None means absent.
        detail: A human's word for the wanted value.
        observed_detail: A human's word for the observed value.
        why: Why it is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    key: str
    verdict: Verdict
    wanted: str | None
    observed: str | None
    detail: str = ""
    observed_detail: str = ""
    why: str = ""


class Drift(BaseModel):
    """The whole comparison, in target order."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    facts: tuple[Comparison, ...]

    def having(self, *verdicts: Verdict) -> tuple[Comparison, ...]:
        """The comparisons with one of the given verdicts."""
        return tuple(fact for fact in self.facts if fact.verdict in verdicts)

    @property
    def equal(self) -> bool:
        """Every wanted fact was observed equal: the only ground on which `stable` may be granted."""
        return all(fact.verdict is Verdict.EQUAL for fact in self.facts)

    @property
    def unknown(self) -> tuple[Comparison, ...]:
        """Facts that could not be read; any of them blocks."""
        return self.having(Verdict.UNKNOWN)

    @property
    def differing(self) -> tuple[Comparison, ...]:
        """Facts that differ, or whose wanted value is still to be made."""
        return self.having(Verdict.DIFFERS, Verdict.PENDING)


def fact_order(keys: Iterable[str]) -> list[str]:
    """Fact keys in target order, then by name."""
    rank = {target: index for index, target in enumerate(TARGET_ORDER)}
    return sorted(keys, key=lambda key: (rank.get(target_of(key), len(rank)), key))


def compare(goal: Goal, observed: Observation) -> Drift:
    """Compares a goal with an observation.

    Only wanted facts are compared; facts nobody asked for are none of our business. A wanted fact that was not
    observed, or could not be read, is unknown, never equal.
    """
    return Drift(facts=tuple(_compare_one(goal, observed, key) for key in fact_order(goal.wanted)))


def _compare_one(goal: Goal, observed: Observation, key: str) -> Comparison:
    wanted, fact = goal.wanted[key], observed.get(key)
    if wanted.pending:
        verdict = Verdict.PENDING
    elif not fact.known:
        verdict = Verdict.UNKNOWN
    else:
        verdict = Verdict.EQUAL if fact.value == wanted.value else Verdict.DIFFERS
    return Comparison(
        key=key,
        verdict=verdict,
        wanted=wanted.value,
        observed=fact.value,
        detail=wanted.detail,
        observed_detail=fact.detail,
        why=fact.unknown or "",
    )
