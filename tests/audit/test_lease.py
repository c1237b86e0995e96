"""The lease: one process at a time, taken over from the dead at once, from the living never, and lost in time."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from reconciler.audit import lease as leases
from reconciler.audit import processes
from reconciler.audit.database import Database
from reconciler.audit.lease import TTL, Holder, Lease
from reconciler.audit.processes import alive, identity
from reconciler.audit.queries import entries, status_of
from reconciler.core.errors import LeaseHeldError, LeaseLostError, LedgerError
from tests.support.waiting import wait_for
from tests.support.world import FrozenClock
from tests.support.writers import Writer, journal, note

ELSEWHERE = Holder("bob@desktop", "desktop/boot.pid:[1]/1/1")
ME = Holder.me("ada@laptop")


def _row(ledger: Database) -> tuple[object, ...]:
    with ledger.reading() as connection:
        query = (
            "SELECT lease_token, lease_holder, lease_expires FROM environments WHERE name = 'prod'"
        )
        return tuple(connection.execute(text(query)).one())


@pytest.mark.crash
def test_of_two_processes_that_race_exactly_one_holds(url: str) -> None:
    racers = [Writer("hold", url) for _ in range(2)]
    for racer in racers:
        assert racer.says() == "ready"
    for racer in racers:
        racer.go()
    assert sorted(racer.says() for racer in racers) == ["LeaseHeldError", "held"]
    assert [racer.end() for racer in racers] == [0, 0]


def test_whoever_is_refused_is_told_who_holds_it(ledger: Database) -> None:
    with (
        Lease(ledger, "prod", ME, FrozenClock()),
        pytest.raises(LeaseHeldError, match=rf"ada@laptop \(pid {os.getpid()}\)") as raised,
    ):
        Lease(ledger, "prod", ELSEWHERE, FrozenClock())
    assert "reconciler status prod" in raised.value.hint


def test_another_environment_is_another_lease(ledger: Database) -> None:
    with Lease(ledger, "prod", ME, FrozenClock()), Lease(ledger, "staging", ME, FrozenClock()):
        pass


def test_a_lease_that_was_given_back_is_free(ledger: Database) -> None:
    clock = FrozenClock()
    with Lease(ledger, "prod", ME, clock) as first:
        pass
    assert _row(ledger)[1:] == (None, None)
    with Lease(ledger, "prod", ELSEWHERE, clock) as second:
        assert second.token == first.token + 1
    with pytest.raises(LeaseLostError):
        first.guard()


def test_from_another_machine_it_is_taken_over_when_it_expires_and_not_before(
    ledger: Database,
) -> None:
    clock = FrozenClock()
    first = Lease(ledger, "prod", ELSEWHERE, clock)
    clock.time += TTL - timedelta(seconds=1)
    with pytest.raises(LeaseHeldError):
        Lease(ledger, "prod", ME, clock)
    clock.time += timedelta(seconds=2)
    with Lease(ledger, "prod", ME, clock):
        with pytest.raises(LeaseLostError):
            first.guard()
        assert not first.renew()
        first.release()
        assert _row(ledger)[1] == ME.name, (
            "an old holder gives nothing back that is no longer its own"
        )


@pytest.mark.crash
def test_a_holder_that_was_killed_is_replaced_at_once(url: str) -> None:
    holder = Writer("hold", url)
    assert holder.says() == "ready"
    holder.go()
    assert holder.says() == "held"
    database = Database(url)
    with pytest.raises(LeaseHeldError):
        Lease(database, "prod", ME, FrozenClock())
    holder.process.kill()
    assert holder.end() < 0
    with journal(database) as book:
        note(book)
    database.close()


def test_a_zombie_will_never_act_again() -> None:
    child = subprocess.Popen(["sleep", "60"])
    name = identity(child.pid)
    assert alive(name)
    child.kill()
    wait_for(
        lambda: not alive(name),
        what="the killed child is seen as dead although nobody has reaped it",
    )
    child.wait()
    assert not alive(name)


def test_a_process_id_that_was_given_to_another_process_is_not_the_holder() -> None:
    host, boot, pid, started = identity(os.getpid()).split("/")
    assert alive(f"{host}/{boot}/{pid}/{started}")
    assert not alive(f"{host}/{boot}/{pid}/{int(started) - 1}")


@pytest.mark.parametrize("process", [None, "", "odd", "a/b/c", "other/boot/1/1", "//x/1"])
def test_what_cannot_be_told_counts_as_living(process: str | None) -> None:
    assert alive(process)


def test_another_boot_or_process_id_namespace_counts_as_living() -> None:
    host, boot, _, _ = identity(os.getpid()).split("/")
    assert alive(f"{host}/{boot.partition('.')[0]}.pid:[1]/999999/1"), (
        "a container beside us on one host"
    )
    assert alive(f"{host}/another-boot/999999/1")
    assert not alive(f"{host}/{boot}/999999/1")


def test_a_process_that_proc_hides_is_asked_for_by_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    name = identity(1)
    monkeypatch.setattr(processes, "_started", lambda pid: None)
    assert alive(name)
    assert not alive(name.replace("/1/", "/999999/"))


def test_it_is_renewed_in_the_background(ledger: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TTL", timedelta(seconds=8))
    monkeypatch.setattr(leases, "_MARGIN", 1.0)
    clock = FrozenClock()
    with Lease(ledger, "prod", ME, clock) as held:
        first = datetime.fromisoformat(str(_row(ledger)[2]))
        clock.time += timedelta(seconds=4)
        wait_for(
            lambda: datetime.fromisoformat(str(_row(ledger)[2])) > first,
            what="renewed within two seconds",
        )
        held.guard()


def test_a_holder_that_cannot_renew_stops_before_it_expires(ledger: Database) -> None:
    clock = FrozenClock()
    with Lease(ledger, "prod", ME, clock) as held:
        clock.time += TTL - timedelta(seconds=6)
        held.guard()
        clock.time += timedelta(seconds=2)
        with pytest.raises(LeaseLostError):
            held.guard()


def test_a_machine_that_slept_has_lost_its_lease_although_its_monotonic_clock_stood_still(
    ledger: Database,
) -> None:
    clock = FrozenClock()
    still = clock.monotonic()
    clock.monotonic = lambda: still  # type: ignore[method-assign]
    with Lease(ledger, "prod", ME, clock) as held:
        clock.time += timedelta(hours=1)
        with pytest.raises(LeaseLostError):
            held.guard()
        assert not held.renew(), "what has expired is not revived"


def test_whoever_lost_its_lease_writes_nothing(ledger: Database) -> None:
    clock = FrozenClock()
    with journal(ledger, clock=clock) as book:
        note(book)
        before = list(entries(ledger)), status_of(ledger, "prod")
        clock.time += TTL
        with pytest.raises(LeaseLostError):
            note(book)
        with pytest.raises(LeaseLostError):
            book.guard()
        assert (list(entries(ledger)), status_of(ledger, "prod")) == before
        assert book.status == before[1]


def test_a_token_that_was_overtaken_writes_nothing(ledger: Database) -> None:
    with journal(ledger) as book:
        with ledger.writing() as connection:
            connection.execute(text("UPDATE environments SET lease_token = lease_token + 1"))
        with pytest.raises(LeaseLostError):
            note(book)
    assert not list(entries(ledger))


def test_a_database_that_fails_at_the_end_takes_nothing_back(
    ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise LedgerError("the disk is full")

    with journal(ledger) as book:
        note(book)
        monkeypatch.setattr(ledger, "writing", broken)
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_waiting_readers_and_writers_do_not_disturb_each_other(ledger: Database) -> None:
    with journal(ledger) as book:
        note(book)
        began = time.monotonic()
        with ledger.reading() as reading:
            assert reading.execute(text("SELECT count(*) FROM ledger")).scalar() == 1
            note(book)
            assert reading.execute(text("SELECT count(*) FROM ledger")).scalar() in (1, 2)
        assert time.monotonic() - began < 5
