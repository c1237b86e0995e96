"""The practice production: deployed by ordinary means, breakable, removable, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from reconciler.core.errors import UsageError
from reconciler.project import load_spec
from reconciler.sandbox.practice_engine import LABEL
from reconciler.sandbox.practice_look import look, release_of, servers
from reconciler.sandbox.practice_record import Places, checked_name, default_name, pick_ports
from reconciler.sandbox.practice_source import git
from reconciler.sandbox.production import PracticeProduction
from tests.support.production import Practice
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.process

GOOD, BAD = "1.4.0", "1.5.0"


def leftovers(engine: Engine, name: str) -> list[str]:
    """Everything on the engine that belongs to a practice production."""
    project = f"label=com.docker.compose.project={name}"
    found = engine.docker("ps", "--all", "--quiet", "--filter", project)
    found += engine.docker("volume", "ls", "--quiet", "--filter", project)
    found += engine.docker("network", "ls", "--quiet", "--filter", project)
    found += engine.docker("images", "--all", "--quiet", "--filter", f"label={LABEL}={name}")
    return found.split()


def sandbox(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler", "sandbox", *arguments],
        env={**os.environ, "NO_COLOR": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class TestWithoutParts:
    def test_a_folder_always_gives_the_same_name_and_it_is_one_docker_takes(
        self, tmp_path: Path
    ) -> None:
        assert default_name(tmp_path) == default_name(tmp_path)
        assert default_name(tmp_path) != default_name(tmp_path / "other")
        assert checked_name(default_name(tmp_path)) == default_name(tmp_path)

    @pytest.mark.parametrize("name", ["Shop", "1shop", "a b", "", "x" * 41, "--help"])
    def test_a_name_that_docker_would_refuse_is_refused_first(self, name: str) -> None:
        with pytest.raises(UsageError):
            checked_name(name)

    def test_ports_are_five_different_ones(self) -> None:
        assert len(set(pick_ports().model_dump().values())) == 5

    def test_a_folder_with_other_things_in_it_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("all of it")
        production = PracticeProduction(tmp_path)
        with pytest.raises(UsageError, match="not empty"):
            production.up()
        with pytest.raises(UsageError, match="nothing was removed"):
            production.down()
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_down_where_nothing_is_says_so(self, tmp_path: Path) -> None:
        done = sandbox("down", str(tmp_path / "none"))
        assert (done.returncode, done.stderr) == (0, "")
        assert "no practice production" in done.stdout

    def test_break_without_a_production_names_the_way_to_one(self, tmp_path: Path) -> None:
        done = sandbox("break", str(tmp_path))
        assert done.returncode == 2
        assert "reconciler sandbox up" in done.stderr

    def test_without_an_engine_nothing_is_made(self, tmp_path: Path) -> None:
        place = tmp_path / "shop"
        done = sandbox("up", str(place), DOCKER_HOST=f"unix://{tmp_path}/no.sock")
        assert done.returncode == 1
        assert "Docker" in done.stderr
        assert "Next:" in done.stderr
        assert "Traceback" not in done.stderr
        assert not place.exists()

    def test_a_damaged_record_is_named(self, tmp_path: Path) -> None:
        places = Places(tmp_path)
        places.own.mkdir()
        places.record.write_text("{")
        with pytest.raises(UsageError, match="the record of a practice"):
            places.read()


@pytest.mark.engine
@pytest.mark.postgres
@pytest.mark.xdist_group("practice")
class TestPractice:
    def test_it_starts_at_the_good_release(self, practice_session: Practice) -> None:
        good, world = practice_session.production.good, practice_session.good_world
        assert (world.commit, world.branch, world.dirty) == (good.commit, "main", "")
        assert world.versions[-1] == good.migration
        assert set(world.aliases.values()) == {world.production} == {good.deployment}
        assert {name: one[1] for name, one in world.services.items()} == {
            "app": "running (healthy)",
            "worker": "running (healthy)",
            "redis": "running",
        }
        for service in ("app", "worker"):
            tag = practice_session.production.engine.image(service, GOOD)
            assert world.services[service][0] == world.tags[tag]

    def test_breaking_it_changes_all_four_systems(self, practice: Practice) -> None:
        good, broken, bad = practice.good_world, practice.broken_world, practice.production.bad
        assert (broken.commit, broken.branch) == (bad.commit, "main")
        assert broken.production == bad.deployment != good.production
        assert len(broken.rows["coupons"]) == 3
        discounts = [json.loads(row)["discount_cents"] for row in broken.rows["orders"]]
        assert sorted(discounts, key=str) == [1290, 99, None, None]
        assert broken.rows["customers"] == good.rows["customers"]
        assert broken.services["redis"] == good.services["redis"]
        for service in ("app", "worker"):
            assert broken.services[service][0] != good.services[service][0]
        status, text = practice.production.health()
        assert (status, json.loads(text)["release"]) == (500, BAD)

    def test_history_is_several_commits_and_the_good_one_is_no_root(
        self, practice: Practice
    ) -> None:
        subjects = git(practice.root, "log", "--format=%s", "main").splitlines()
        assert [subject.partition(":")[0] for subject in subjects] == [BAD, GOOD, "1.3.0", "1.2.0"]

    def test_secrets_are_private_ignored_and_nowhere_else(self, practice: Practice) -> None:
        places = practice.production.places
        files = [*places.secrets.iterdir(), practice.root / "app.env"]
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        secrets = [file.read_text().strip().rpartition("=")[2] for file in files]
        public = git(practice.root, "log", "--patch", "--all")
        public += places.spec.read_text() + places.record.read_text()
        assert not [secret for secret in secrets if secret in public]
        assert git(practice.root, "status", "--porcelain") == ""

    def test_its_spec_asks_for_the_good_release(self, practice: Practice) -> None:
        spec, good = load_spec(practice.spec).spec, practice.production.good
        assert spec.git
        assert spec.database
        assert spec.vercel
        assert spec.git.commit == good.commit
        assert spec.database.migration == good.migration
        assert spec.vercel.deployment == good.deployment

    def test_every_bad_migration_has_a_way_back(self, practice: Practice) -> None:
        folder = practice.root / "supabase"
        names = {path.name for path in (folder / "migrations").iterdir()}
        assert names == {path.name for path in (folder / "rollbacks").iterdir()}
        assert len(names) == 5

    def test_volumes_hold_data(self, practice: Practice) -> None:
        engine = practice.production.engine
        invoices = engine.compose("exec", "--no-TTY", "app", "ls", "/srv/uploads")
        assert invoices.split() == ["invoice-1.txt", "invoice-2.txt", "invoice-3.txt"]

    def test_looking_tells_the_release_and_the_servers(self, practice: Practice) -> None:
        production = practice.production
        assert release_of(production, look(production)) == BAD
        assert all(server.pid for server in servers(production))

    def test_what_is_broken_already_is_not_touched_again(self, practice: Practice) -> None:
        before = practice.world()
        practice.reset_to_broken()
        assert practice.world() == before
        assert practice.effects() == []

    def test_whatever_a_test_leaves_is_put_right(self, practice: Practice) -> None:
        production, engine = practice.production, practice.production.engine
        git(practice.root, "checkout", "--quiet", "--detach", production.good.commit)
        (practice.root / "docker-compose.yml").write_text("services: {}")
        (practice.root / ".git" / "index.lock").touch()
        (practice.root / "states").mkdir()
        practice.spec.write_text("nothing")
        with psycopg.connect(production.dsn) as connection:
            connection.execute("DROP TABLE public.coupons; DELETE FROM public.orders")
        engine.docker("tag", engine.image("app", GOOD), engine.image("app", "stray"))
        engine.use(GOOD)
        engine.stop()
        vercel = production.vercel
        assert production.good.deployment
        vercel.call("POST", f"/v1/projects/practice-shop/rollback/{production.good.deployment}", {})
        os.kill(vercel.pid or 0, signal.SIGKILL)
        practice.reset_to_broken()
        world = practice.world()
        assert world.release == practice.broken_world.release
        assert world.tags == practice.broken_world.tags
        assert practice.effects() == []
        load_spec(practice.spec)
        assert not (practice.root / "states").exists()

    def test_up_starts_again_what_does_not_run(self, practice: Practice) -> None:
        production = practice.production
        production.vercel.stop()
        production.engine.compose("stop", "worker")
        production.up()
        wait_for(
            lambda: practice.world().release == practice.broken_world.release,
            what="the production as it was",
        )

    def test_faults_are_armed_listed_and_cleared_by_command(self, practice: Practice) -> None:
        root = str(practice.root)
        armed = sandbox(
            "fault", "latency", root, "--delay-ms", "1", "--path", "/v9/*", "--times", "2"
        )
        assert armed.stdout == "latency on * /v9/*: armed, struck 0 of 2\n", armed.stderr
        practice.world()
        assert "struck 1 of 2" in sandbox("fault", "list", root).stdout
        assert sandbox("fault", "clear", root).stdout == "No faults are armed on vercel.\n"
        refused = sandbox("fault", "latency", root)
        assert refused.returncode == 1
        assert "needs delay_ms" in refused.stderr

    def test_status_says_what_runs_where_without_secrets(self, practice: Practice) -> None:
        shown = sandbox("status", str(practice.root))
        assert shown.returncode == 0
        assert f"Release vector ({BAD})" in shown.stdout
        places = practice.production.places
        for file in places.secrets.iterdir():
            assert file.read_text().strip() not in shown.stdout
        told = json.loads(sandbox("status", str(practice.root), "-o", "json").stdout)
        assert (told["release"], told["healthy"], told["health"]) == (BAD, False, 500)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for a production of this test's own, removed whatever happens."""
    yield tmp_path / "shop"
    PracticeProduction(tmp_path / "shop").down()


@pytest.mark.engine
@pytest.mark.postgres
@pytest.mark.xdist_group("practice")
class TestByCommand:
    def test_up_break_down_with_supabase(self, engine: Engine, place: Path) -> None:
        made = sandbox("up", str(place), "--supabase")
        assert made.returncode == 0, made.stderr
        name = default_name(place)
        broken = sandbox("break", str(place))
        assert broken.returncode == 0, broken.stderr
        assert '"release":"1.5.0"' in broken.stdout
        production = PracticeProduction(place)
        assert load_spec(production.places.spec).spec.database.supabase  # type: ignore[union-attr]
        answer = production.supabase.call(
            "GET", "/v1/projects/abcdefghijklmnopqrst/database/migrations"
        )
        assert isinstance(answer, list)
        assert len(answer) == 5
        pids = [server.pid for server in servers(production)]
        assert all(pids)
        kept = sandbox("down", str(place), "--keep")
        assert kept.returncode == 0, kept.stderr
        assert leftovers(engine, name) == []
        assert not any(server.pid for server in servers(production))
        assert git(place, "rev-parse", "HEAD") == production.bad.commit
        assert sandbox("down", str(place)).returncode == 0
        assert not place.exists()

    def test_down_removes_what_a_killed_up_left(self, engine: Engine, place: Path) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "reconciler", "sandbox", "up", str(place)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        name = default_name(place)
        label = f"label=com.docker.compose.project={name}"
        wait_for(lambda: engine.docker("ps", "--quiet", "--filter", label), seconds=60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        again = sandbox("up", str(place))
        assert again.returncode == 2
        assert "sandbox down" in again.stderr
        removed = sandbox("down", str(place))
        assert removed.returncode == 0, removed.stderr
        assert leftovers(engine, name) == []
        assert not place.exists()
        assert processes_of(place) == []


def processes_of(place: Path) -> list[str]:
    """Processes whose command line names a folder, once the dying are gone."""

    def alive() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = entry.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(place) in line:
                found.append(line)
        return found

    deadline = time.monotonic() + 10
    while (found := alive()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
