"""What things cost when there is more of them: services, ledger entries, commits, bytes of a volume.

Each figure is ours beside what a plain command needs for the same work. Called by `__main__`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError, Sample, median, run
from bench.shop import PROGRAM
from reconciler.sandbox.base_image import BASE_IMAGE
from reconciler.sandbox.practice_source import git

Say = Callable[[str], None]

SERVICES = (2, 8, 20)
ENTRIES = (0, 10_000, 100_000)
COMMITS = (10, 20_000)
MEGABYTES = (10, 100, 300)
_LINGER = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
_MIB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """One line of a table.

    Attributes:
        count: How many.
        cells: What was measured, by the column's title.
    """

    count: str
    cells: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where this room works.

    Attributes:
        scratch: A folder for everything that is made.
        name: Start of the names of Compose projects and images.
        repetitions: How often each figure is measured.
    """

    scratch: Path
    name: str
    repetitions: int

    def project(self, name: str, spec: str) -> Path:
        """A folder with a spec."""
        root = self.scratch / name
        (root / "specs").mkdir(parents=True)
        (root / "reconciler.toml").write_text('states = "states"\n', encoding="utf-8")
        write_spec(root, spec)
        return root

    def base(self, tag: str) -> str:
        """A small image under a name of its own, which no other has."""
        reference = f"{self.name}-tiny:{tag}"
        text = f"FROM {BASE_IMAGE}\nLABEL bench={tag}\n"
        docker("build", "--quiet", "--tag", reference, "-", stdin=text)
        return reference


def write_spec(root: Path, spec: str) -> None:
    """The project's spec."""
    head = f"apiVersion: reconciler/v1\nkind: Environment\nmetadata: {{name: {root.name}}}\nspec:\n"
    (root / "specs" / "spec.yaml").write_text(head + spec, encoding="utf-8")


def apply(root: Path) -> Sample:
    """Ours."""
    return run([str(PROGRAM), "apply", "specs/spec.yaml", "--yes"], cwd=root)


def docker(*arguments: str, cwd: Path | None = None, stdin: str = "") -> str:
    """Runs `docker`, unmeasured; gives its output.

    Raises:
        BenchError: It refused.
    """
    done = subprocess.run(
        ["docker", *arguments], cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"docker {' '.join(arguments[:2])}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


# --- services ---------------------------------------------------------------------------------------


def services(place: Place, say: Say) -> list[Scale]:
    """All services get other images: `docker compose up` beside us."""
    old, new = place.base("old"), place.base("new")
    try:
        return [_services(place, count, old, new, say) for count in SERVICES]
    finally:
        docker("image", "rm", "--force", old, new)


def _services(place: Place, count: int, old: str, new: str, say: Say) -> Scale:
    say(f"{count} services")
    project = f"{place.name}-s{count}"
    names = [f"s{number}" for number in range(1, count + 1)]
    pins = "".join(f'      {name}: {{image: "{new}"}}\n' for name in names)
    spec = f"  docker:\n    project: {project}\n    services:\n{pins}  verify: {{timeout: 2m}}\n"
    root = place.project(f"services-{count}", spec)
    listed = "".join(
        f"  {name}: {{image: '{project}-{name}:production', command: [sh, -c, {_quoted(_LINGER)}]}}\n"
        for name in names
    )
    (root / "docker-compose.yml").write_text(f"name: {project}\nservices:\n{listed}", "utf-8")
    references = [f"{project}-{name}:production" for name in names]
    tags = "; ".join(f"docker tag {new} {reference}" for reference in references)

    def back() -> None:
        for reference in references:
            docker("tag", old, reference)
        docker("compose", "up", "--detach", cwd=root)

    plain, ours = [], []
    try:
        for _ in range(place.repetitions):
            back()
            plain.append(run(["sh", "-euc", f"{tags}; docker compose up --detach"], cwd=root))
            back()
            ours.append(apply(root))
    finally:
        docker("compose", "down", "--timeout", "1", cwd=root)
        docker("image", "rm", "--force", *references)
    limit, mine = median([s.seconds for s in plain]), median([s.seconds for s in ours])
    return Scale(
        str(count),
        {
            "`compose up`": f"{limit:.2f} s",
            "`apply`": f"{mine:.2f} s",
            "ratio": f"{mine / limit:.2f}",
            "processor": f"{median([s.cpu for s in ours]):.2f} s",
        },
    )


def _quoted(text: str) -> str:
    """A YAML string in which Compose interpolates nothing."""
    return '"' + text.replace("$", "$$") + '"'


# --- ledger entries ---------------------------------------------------------------------------------


def entries(place: Place, say: Say) -> list[Scale]:
    """Reading and writing beside a ledger that has grown."""
    root = place.project("entries", "  git: {commit: HEAD}\n")
    _repository(root, 3)
    apply(root)
    found, have = [], 0
    for count in ENTRIES:
        say(f"{count:,} ledger entries")
        _grow(root / "states" / "audit.db", count - have)
        have = count
        commands = {
            "`status`": ["status", root.name],
            "`apply`, nothing to do": ["apply", "specs/spec.yaml", "--yes"],
            "`suspend`": ["suspend", root.name, "--reason", "measured"],
            "`resume`": ["resume", root.name, "--reason", "measured"],
        }
        samples: dict[str, list[float]] = {title: [] for title in commands}
        for _ in range(place.repetitions):
            for title, arguments in commands.items():
                samples[title].append(run([str(PROGRAM), *arguments], cwd=root).seconds)
        cells = {title: f"{median(seconds):.2f} s" for title, seconds in samples.items()}
        found.append(Scale(f"{count:,}", cells))
    return found


def _grow(ledger: Path, more: int) -> None:
    """Further entries of an environment that nobody asks for; the triggers allow adding, nothing else."""
    if more <= 0:
        return
    with sqlite3.connect(ledger) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(ledger)")]
        changed = {"seq": "last.seq + n.value", "environment": "'filler'"}
        columns = ", ".join(changed.get(name, f"last.{name}") for name in names)
        connection.execute(
            "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT ?), "
            "last AS (SELECT * FROM ledger ORDER BY seq DESC LIMIT 1) "
            f"INSERT INTO ledger ({', '.join(names)}) SELECT {columns} FROM n, last",
            (more,),
        )
    connection.close()


# --- commits ----------------------------------------------------------------------------------------


def commits(place: Place, say: Say) -> list[Scale]:
    """A checkout in a repository with a long history: `git checkout` beside us."""
    found = []
    for count in COMMITS:
        say(f"{count:,} commits")
        root = place.project(f"commits-{count}", "  git: {commit: HEAD}\n")
        _repository(root, count)
        apply(root)
        good = git(root, "rev-parse", "main~5")
        write_spec(root, f"  git: {{commit: {good}}}\n")
        plain, ours, nothing = [], [], []
        for _ in range(place.repetitions):
            git(root, "checkout", "--quiet", "main")
            plain.append(run(["git", "checkout", "--quiet", good], cwd=root).seconds)
            git(root, "checkout", "--quiet", "main")
            ours.append(apply(root).seconds)
            nothing.append(apply(root).seconds)
        found.append(
            Scale(
                f"{count:,}",
                {
                    "`git checkout`": f"{median(plain):.2f} s",
                    "`apply`": f"{median(ours):.2f} s",
                    "`apply`, nothing to do": f"{median(nothing):.2f} s",
                },
            )
        )
    return found


def _repository(root: Path, count: int) -> None:
    """A repository of many small commits, made in one go."""
    git(root, "init", "--quiet", "--initial-branch=main")
    stream = [
        f"commit refs/heads/main\ncommitter Bench <bench@practice.example> {1_700_000_000 + n} +0000\n"
        f"data <<END\nRelease {n}\nEND\nM 644 inline release-{n % 50}\ndata <<END\n{n}\nEND\n"
        f"M 644 inline .gitignore\ndata <<END\n/specs/\n/states/\n/reconciler.toml\nEND\n"
        for n in range(count)
    ]
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=root, input="\n".join(stream), text=True, check=True
    )
    git(root, "checkout", "--quiet", "main")


# --- bytes of a volume ------------------------------------------------------------------------------


def volumes(place: Place, say: Say) -> list[Scale]:
    """A volume goes back to an archive: plain `tar` beside the step that does it, and the whole command."""
    image = place.base("volume")
    try:
        return [_volume(place, size, image, say) for size in MEGABYTES]
    finally:
        docker("image", "rm", "--force", image)


def _volume(place: Place, size: int, image: str, say: Say) -> Scale:
    say(f"a volume of {size} MiB")
    project = f"{place.name}-v{size}"
    root = place.project(f"volume-{size}", "")
    command = f"command: [sh, -c, {_quoted(_LINGER)}]"
    (root / "docker-compose.yml").write_text(
        f"name: {project}\nservices:\n  app: {{image: '{image}', {command}, volumes: ['data:/data']}}\n"
        "volumes:\n  data:\n",
        "utf-8",
    )
    archives = [_archive(root, f"{letter}.tar", size) for letter in "ab"]
    plain, ours, steps = [], [], []
    try:
        docker("compose", "up", "--detach", cwd=root)
        for repetition in range(place.repetitions):
            archive = archives[repetition % 2]
            target = root / "plain"
            target.mkdir()
            plain.append(run(["tar", "-xf", str(archive), "-C", str(target)], cwd=root).seconds)
            shutil.rmtree(target)
            with archive.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            pin = f"data: {{restore: {archive.name}, sha256: {digest}}}"
            write_spec(
                root,
                f"  docker:\n    project: {project}\n    volumes:\n      {pin}\n"
                "  policy: {allowDataLoss: true}\n",
            )
            ours.append(apply(root))
            steps.append(_step_seconds(root, "restore-volume"))
    finally:
        docker("compose", "down", "--timeout", "1", "--volumes", cwd=root)
        shutil.rmtree(root)
    limit, mine = median(plain), median(steps)
    return Scale(
        f"{size} MiB",
        {
            "`tar -x`": f"{limit:.2f} s",
            "the restoring step": f"{mine:.2f} s",
            "`tar` / step": f"{limit / mine:.0%}",
            "whole `apply`": f"{median([s.seconds for s in ours]):.2f} s",
            "peak memory": f"{max(s.peak for s in ours) / _MIB:.0f} MiB",
        },
    )


def _archive(root: Path, name: str, size: int) -> Path:
    """A tar of files of 1 MiB each, of bytes that do not compress."""
    content = root / "content"
    content.mkdir()
    for number in range(size):
        (content / f"file-{number:04}").write_bytes(os.urandom(_MIB))
    with tarfile.open(root / name, "w") as archive:
        archive.add(content, arcname=".")
    shutil.rmtree(content)
    return root / name


def _step_seconds(root: Path, action: str) -> float:
    """How long the newest step of a kind took, as the ledger has it."""
    with sqlite3.connect(root / "states" / "audit.db") as connection:
        found = connection.execute(
            "SELECT body FROM ledger WHERE kind = 'result' AND effect LIKE ? ORDER BY seq DESC LIMIT 1",
            (f"%/{action}/%",),
        ).fetchone()
    connection.close()
    if found is None:
        raise BenchError(f"The ledger has no {action}.")
    return float(json.loads(found[0])["seconds"])
