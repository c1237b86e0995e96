"""Fetches programs from the machine's own Debian or Ubuntu mirror without changing its settings.

Used by `engine.py` and `parts.py`. Packages are downloaded into the project's folder and unpacked
there; only `install` changes the system, and only root may call it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from common import ToolError

# The first Debian with Compose v2; its self-contained binaries run on Debian 12 too (libc >= 2.34).
_SUITE_WITH_COMPOSE = "trixie"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def install(packages: list[str]) -> None:
    """Install packages system-wide.

    Raises:
        ToolError: This is not a Debian-like machine, or apt failed.
    """
    if shutil.which("apt-get") is None:
        raise ToolError(f"please install {' '.join(packages)} (or Docker with Compose v2) yourself")
    update_lists_if_empty()
    _apt(["install", "--yes", "--no-install-recommends", *packages])


def fetch(package: str, folder: Path) -> Path:
    """Download a package with all it needs that the machine lacks, and unpack it into `folder`.

    Returns:
        The folder, which then looks like `/`: programs are in `usr/bin`, libraries in `usr/lib`.

    Raises:
        ToolError: apt is missing or failed.
    """
    if shutil.which("apt-get") is None:
        raise ToolError(f"please install {package} yourself; this machine has no apt-get")
    archives = folder.with_name(f"{folder.name}.debs")
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    update_lists_if_empty()
    _apt(
        ["install", "--yes", "--no-install-recommends", "--download-only", "--reinstall", package],
        {"Dir::Cache::archives": f"{archives}/", "Debug::NoLocking": "true"},
    )
    _unpack(archives, folder)
    return folder


def fetch_docker_plugins(folder: Path) -> list[Path]:
    """Download the `docker compose` and `docker buildx` plugins; gives the two binaries.

    Raises:
        ToolError: The distribution does not have them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if _distribution() == "ubuntu":
        packages, options = ["docker-compose-v2", "docker-buildx"], {}
        update_lists_if_empty()
    else:
        packages, options = ["docker-compose", "docker-buildx"], _newer_suite(folder / "apt")
        _apt(["update"], options)
    _apt(["download", *packages], options, cwd=folder)
    _unpack(folder, folder / "root")
    return [
        next(folder.joinpath("root").rglob(f"cli-plugins/{name}"))
        for name in ("docker-compose", "docker-buildx")
    ]


def update_lists_if_empty() -> None:
    """Fetch the package lists on a machine that has none, as fresh containers do."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        _apt(["update"])


def _newer_suite(folder: Path) -> dict[str, str]:
    """Describe a private apt that knows the newer suite on the mirror that the machine uses."""
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    sources = folder / "newer.sources"
    sources.write_text(
        f"Types: deb\nURIs: {_mirror()}\nSuites: {_SUITE_WITH_COMPOSE}\nComponents: main\n"
        f"Signed-By: {_KEYRING}\n",
        encoding="utf-8",
    )
    return {
        "Dir::Etc::sourcelist": str(sources),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": f"{folder}/lists",
        "Dir::Cache": f"{folder}/cache",
        "Acquire::Languages": "none",
    }


def _mirror() -> str:
    """Give the Debian mirror that the machine's own sources name."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in targets.stdout.splitlines():
        origin, label, component, uri = line.split("|", 3)
        if (origin, label, component) == ("Debian", "Debian", "main"):
            return uri
    raise ToolError("found no Debian mirror in apt's sources; please install Compose v2 and buildx")


def _distribution() -> str:
    release = Path("/etc/os-release")
    lines = release.read_text(encoding="utf-8").splitlines() if release.exists() else []
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    name = values.get("ID", "").strip('"')
    if name not in {"debian", "ubuntu"} or shutil.which("apt-get") is None:
        raise ToolError("please install the Compose v2 and buildx plugins of the docker command")
    return name


def _unpack(debs: Path, folder: Path) -> None:
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(deb), str(folder)], check=True)


def _apt(words: list[str], options: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    settings = {"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}
    settings |= options or {}
    flags = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    done = subprocess.run(
        ["apt-get", "--quiet", "--quiet", *flags, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-5:])
        raise ToolError(f"apt-get {words[0]} failed:\n{tail}")
