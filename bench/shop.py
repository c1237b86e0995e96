"""The practice production that everything is measured on, and how it is broken again for each repetition.

Nothing here goes through the reconciler except the command that is measured.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError, Sample, run, run_watched
from reconciler.sandbox.practice_record import VERCEL_PROJECT, VERCEL_TEAM
from reconciler.sandbox.practice_source import git
from reconciler.sandbox.production import PracticeProduction

PROGRAM = Path(sys.executable).with_name("reconciler")
_RUNBOOK = Path(__file__).with_name("runbook.sh")
_PLAYBOOK = Path(__file__).with_name("ansible.yml")
_RETAG = """\
apiVersion: reconciler/v1
kind: Environment
metadata: {{name: retag}}
spec:
  docker:
    project: {name}
    services:
      app: {{image: "{name}-app:{version}"}}
      worker: {{image: "{name}-worker:{version}"}}
"""


@dataclass
class Shop:
    """A practice production that is broken and brought back, again and again.

    Attributes:
        production: It.
        repetition: Counts the specs that were written: each is a new one, as after a human's edit.
        watched: Whether a client asks the application while a contender works.
    """

    production: PracticeProduction
    repetition: int = 0
    watched: bool = False

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.production.root

    @property
    def address(self) -> tuple[str, int, str]:
        """What the client asks: the front page."""
        return "127.0.0.1", self.production.record.ports.app, "/"

    # --- making it broken -----------------------------------------------------------------------

    def break_containers(self) -> None:
        """The tree of the good commit, the containers on the images of the bad one."""
        production, engine = self.production, self.production.engine
        git(self.root, "checkout", "--quiet", production.good.commit)
        engine.use(production.bad.version)
        engine.up()
        engine.wait_until_up()

    def break_everything(self) -> None:
        """The bad release in all four systems."""
        self.production.break_()

    # --- the contenders -------------------------------------------------------------------------

    def plain(self, *, wait: bool) -> Sample:
        """The limit: two tags and `docker compose up`."""
        name, version = self.production.record.name, self.production.good.version
        tags = [
            f"docker tag {name}-{service}:{version} {name}-{service}:production"
            for service in ("app", "worker")
        ]
        up = f"docker compose up --detach{' --wait' if wait else ''}"
        return self._measured(["sh", "-euc", "; ".join([*tags, up])])

    def retag(self) -> Sample:
        """Ours: only the images go back."""
        text = _RETAG.format(name=self.production.record.name, version=self.production.good.version)
        return self._measured(self._apply("retag.yaml", text + "  verify: {timeout: 60s}\n"))

    def runbook(self) -> Sample:
        """The runbook's script, in all four systems."""
        production = self.production
        good, places = production.good, production.places
        environment = {
            "PATH": f"{production.psql.parent}:{os.environ['PATH']}",
            "DATABASE_URL": production.dsn,
            "VERCEL_API": production.vercel.url,
            "VERCEL_TOKEN": places.vercel_token.read_text(encoding="utf-8").strip(),
            "VERCEL_PROJECT": VERCEL_PROJECT,
            "VERCEL_TEAM": VERCEL_TEAM,
            "HEALTH_URL": production.health_url,
        }
        arguments = [production.record.name, good.commit, good.version, good.deployment or ""]
        return self._measured(["sh", str(_RUNBOOK), *arguments], environment)

    def rollback(self) -> Sample:
        """Ours: all four systems, every capture and check of the example spec."""
        text = (self.root / "specs" / "prod.yaml").read_text(encoding="utf-8")
        return self._measured(self._apply("prod.yaml", text))

    def without_ansible(self) -> str:
        """Why Ansible cannot be measured here; empty when it can."""
        if shutil.which("ansible-playbook") is None:
            return "ansible-playbook is not installed"
        listed = subprocess.run(
            ["ansible-galaxy", "collection", "list", "community.docker"],
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if "community.docker" in listed.stdout else "no collection community.docker"

    def ansible(self) -> Sample:
        """A playbook that does to the containers what the runbook does."""
        production = self.production
        variables = {
            "project": production.record.name,
            "version": production.good.version,
            "folder": str(self.root),
            "health_url": production.health_url,
        }
        return self._measured(["ansible-playbook", str(_PLAYBOOK), "-e", json.dumps(variables)])

    # --- commands without work ------------------------------------------------------------------

    def command(self, *arguments: str) -> Sample:
        """Ours, without a client that asks."""
        return run([str(PROGRAM), *arguments], cwd=self.root)

    def plain_nothing(self) -> Sample:
        """`docker compose up` that has nothing to do."""
        return run(["docker", "compose", "up", "--detach"], cwd=self.root)

    def _apply(self, name: str, text: str) -> list[str]:
        """A spec as after a human's edit: another timeout makes it a generation of its own."""
        self.repetition += 1
        spec = self.root / "specs" / name
        edited = re.sub(r"(?<=timeout: )\w+", f"{60 + self.repetition}s", text, count=1)
        spec.write_text(edited, encoding="utf-8")
        return [str(PROGRAM), "apply", f"specs/{name}", "--yes"]

    def _measured(self, command: list[str], environment: Mapping[str, str] | None = None) -> Sample:
        if self.watched:
            sample = run_watched(
                command, address=self.address, cwd=self.root, environment=environment
            )
        else:
            sample = run(command, cwd=self.root, environment=environment)
        self._require_good()
        return sample

    def _require_good(self) -> None:
        """A contender that did not bring the good release back is not a contender."""
        engine, version = self.production.engine, self.production.good.version
        engine.wait_until_up()
        images = engine.images()
        for one in engine.containers():
            if one.service in ("app", "worker"):
                wanted = images[engine.image(one.service, version)]
                if one.image != wanted and not self._built_again(one.service, one.image):
                    raise BenchError(f"{one.service} does not run the good release.")

    def _built_again(self, service: str, image: str) -> bool:
        """A rebuilt image has an id of its own; what it serves tells what it is."""
        release = f"/srv/{service}/release"
        said = self.production.engine.docker("run", "--rm", "--entrypoint", "cat", image, release)
        return said.strip() == self.production.good.version
