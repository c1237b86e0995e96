"""The part of the import rules that depends on how modules are named.

The layers are contracts in `pyproject.toml` (`lint-imports`). Here: two targets do not know each
other, whatever files each of them is made of.
"""

from __future__ import annotations

import grimp
import pytest

TARGETS = "reconciler.targets"

# First word of a module's name -> the target it belongs to.
FAMILY = {
    "git": "git",
    "worktree": "git",
    "docker": "docker",
    "compose": "docker",
    "container": "docker",
    "containers": "docker",
    "image": "docker",
    "images": "docker",
    "volume": "docker",
    "volumes": "docker",
    "database": "database",
    "migration": "database",
    "migrations": "database",
    "dumps": "database",
    "pg": "database",
    "postgres": "database",
    "supabase": "database",
    "vercel": "vercel",
}
# Known to all targets, and knowing none of them.
SHARED = {"base", "fake", "shared"}
# Know all targets: one looks them up by name, one asks them all.
REGISTRY = {"registry", "together"}


def family(module: str) -> str | None:
    """The target a module belongs to; None for the package itself and for the registry."""
    rest = module.removeprefix(TARGETS).lstrip(".").partition(".")[0]
    if not rest or rest in REGISTRY:
        return None
    if rest in SHARED:
        return "shared"
    word = rest.partition("_")[0]
    assert word in FAMILY, f"{module}: name it after its target, or add it to FAMILY here"
    return FAMILY[word]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("reconciler", cache_dir=None)


def test_targets_do_not_know_each_other(graph: grimp.ImportGraph) -> None:
    modules = {TARGETS} | graph.find_descendants(TARGETS)
    wrong = []
    for module in modules:
        for imported in graph.find_modules_directly_imported_by(module) & modules:
            mine, theirs = family(module), family(imported)
            if mine and theirs not in {mine, "shared"}:
                wrong.append(f"{module} -> {imported}")
    assert sorted(wrong) == []


def test_only_the_page_that_reads_is_given_to_auditors(graph: grimp.ImportGraph) -> None:
    pages = [name for name in graph.modules if name.startswith("reconciler.web")]
    rooms = {
        imported.split(".")[1]
        for page in pages
        for imported in graph.find_modules_directly_imported_by(page)
        if imported.startswith("reconciler.")
    }
    assert rooms <= {"web", "audit", "core"}


def test_no_two_rooms_need_each_other(graph: grimp.ImportGraph) -> None:
    rings = [
        f"{one} <-> {other}"
        for one in graph.modules
        for other in graph.find_modules_directly_imported_by(one)
        if one < other and one in graph.find_modules_directly_imported_by(other)
    ]
    assert rings == []
