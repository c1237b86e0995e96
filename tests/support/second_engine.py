"""A Docker engine of a test's own, which it may stop and start again without harming anybody else's test.

Needs root, as the private engine does.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.programs import ROOT

_START = "import private_engine as engine; engine.start(); print(engine.ADDRESS)"
_TERMINATE = "import private_engine as engine; engine.terminate()"
_END = "import private_engine as engine; engine.terminate(); engine.clear_left_overs()"


class SecondEngine:
    """One more private engine, with its own data, socket, bridge and addresses."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="reconciler-second-engine-"))
        self.address = self._do(_START).strip()

    @property
    def restart(self) -> list[str]:
        """A command that ends it and its containers, and has it started again in the background."""
        end, start = shlex.join(self._command(_TERMINATE)), shlex.join(self._command(_START))
        return ["sh", "-c", f"{end} && setsid --fork {start}"]

    @property
    def process(self) -> int:
        """The number of its process; another one after a restart."""
        run = Path(self.address.removeprefix("unix://")).parent
        return int(run.joinpath("docker.pid").read_text())

    def close(self) -> None:
        """Ends it and removes what it held."""
        self._do(_END)
        shutil.rmtree(self._folder)

    def _command(self, code: str) -> list[str]:
        home = f"ENGINE_HOME={self._folder}"
        return ["env", home, f"PYTHONPATH={ROOT / 'tools'}", sys.executable, "-c", code]

    def _do(self, code: str) -> str:
        return subprocess.run(
            self._command(code), check=True, stdout=subprocess.PIPE, text=True
        ).stdout
