"""The bench: what it computes is right, its poller sees an outage, its runbook brings production back.

No test asserts how long anything takes.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import contest, machine, report, scales, startup
from bench.contest import Results
from bench.measure import BenchError, Sample, median, outage, run, run_watched, spread
from bench.poller import INTERVAL
from bench.shop import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.production import Practice


_PROFILE = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   json.decoder
import time:      2000 |       2100 |   pydantic.main
import time:       500 |        500 | pydantic
something else on stderr | with | bars
"""


def test_outage_is_the_longest_gap_less_the_interval() -> None:
    assert outage([0.0, 0.01, 0.02, 1.02, 1.03], begun=0.0) == pytest.approx(1.0 - INTERVAL)


def test_a_gap_from_before_the_command_is_not_its_doing() -> None:
    assert outage([0.0, 5.0, 5.01, 5.2], begun=4.9) == pytest.approx(0.19 - INTERVAL)


def test_no_answers_no_gap() -> None:
    assert outage([], begun=0.0) == 0.0


@given(st.lists(st.floats(0, 1e6), min_size=2), st.floats(0, 1e6))
def test_outage_is_never_negative_nor_longer_than_all(answers: list[float], begun: float) -> None:
    times = sorted(answers)
    assert 0.0 <= outage(times, begun) <= times[-1] - times[0]


def test_median_and_spread() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert spread([1.0, 2.0, 3.0]) == 1.0


def test_start_up_is_summed_by_package() -> None:
    assert startup.summed(_PROFILE) == {"pydantic": 2.5, "(Python itself)": 0.1}


def test_a_failed_command_quotes_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such thing"):
        run(["sh", "-c", "echo no such thing; exit 3"], cwd=tmp_path)


def test_a_sample_has_the_commands_own_memory(tmp_path: Path) -> None:
    ballast = bytearray(200 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    sample = run([sys.executable, "-S", "-c", "pass"], cwd=tmp_path)
    assert 0 < sample.peak < len(ballast) / 2
    assert sample.cpu > 0
    assert sample.outage is None


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server's port, and a file: while it is there the server hangs up instead of answering."""
    down = tmp_path / "down"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not down.exists():
                self.send_response(503)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_port, down
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_client_sees_an_outage_and_any_answer_is_up(
    web: tuple[int, Path], tmp_path: Path
) -> None:
    port, down = web
    command = ["sh", "-c", f"touch {down}; sleep 0.4; rm {down}"]
    sample = run_watched(command, address=("127.0.0.1", port, "/"), cwd=tmp_path)
    assert sample.outage is not None
    assert sample.outage > 0.3  # no upper bound: the machine may be busy


def _results() -> Results:
    results = Results()
    results.add(contest.PLAIN, Sample(1.0, 0.1, 50 << 20, 0.5))
    results.add(contest.RETAG, Sample(2.0, 1.0, 80 << 20, 0.6))
    results.add(contest.RETAG, Sample(2.2, 1.0, 90 << 20, 0.6))
    results.add(contest.RUNBOOK, Sample(14.0, 1.0, 80 << 20, 3.0))
    results.add(contest.VERSION, Sample(0.03, 0.03, 20 << 20))
    return results


def test_the_report_has_ratios_of_medians() -> None:
    text = report.ratios(_results())
    assert "| outage, images / `compose up` | 1.20 |" in text
    assert "| whole, images / `compose up` | 2.10 |" in text
    assert "| outage, runbook / images | 5.00 |" in text
    assert "Ansible" not in text


def test_the_report_shows_everybody() -> None:
    text = report.contest(_results())
    assert "| reconciler, images | 0.60 s | 2.10 s |" in text
    assert "90 MiB" in text


def test_scales_and_start_up_are_tables() -> None:
    text = report.scale("services", [scales.Scale("2", {"`apply`": "1.00 s"})])
    assert text.splitlines()[-1] == "| 2 | 1.00 s |"
    profiles = {"a": {"rich": 10.0, "click": 1.0}, "b": {"rich": 1.0}}
    assert "| **all** | **11** | **1** |" in report.startup(profiles)


def test_figures_go_between_the_markers_and_nowhere_else() -> None:
    readme = (Path(scales.__file__).with_name("README.md")).read_text(encoding="utf-8")
    written = report.inserted(readme, "| new |")
    assert "| new |" in written
    assert report.inserted(written, "| newer |").count("| new |") == 0
    assert written.partition(report.BEGIN)[0] == readme.partition(report.BEGIN)[0]
    with pytest.raises(ValueError, match="no place"):
        report.inserted("nothing", "| new |")


@pytest.mark.engine
def test_the_machine_is_named(engine: object) -> None:
    assert "cores" in machine.facts()
    assert "unknown" not in machine.facts()


@pytest.mark.e2e
@pytest.mark.engine
@pytest.mark.postgres
def test_the_runbook_brings_production_back(
    practice: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBOOK_PAUSE", "0")
    sample = Shop(practice.production, watched=True).runbook()
    assert sample.outage is not None
    world = practice.world()
    good = practice.good_world
    assert (world.commit, world.versions) == (good.commit, good.versions)
    assert (world.production, world.schema) == (good.production, good.schema)
