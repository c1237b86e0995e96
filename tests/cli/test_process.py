"""The command as a process among others: terminals, pipes, signals, bugs, and help."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from reconciler.cli.app import COMMANDS, cli
from tests.support.commandline import Repo
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

SLOW = "  verify:\n    checks: [{name: slow, command: [sleep, '60']}]\n"


def commands() -> list[tuple[str, ...]]:
    """Every command, those of groups too."""
    found: list[tuple[str, ...]] = []
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, sub) for sub in command.commands]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_says_what_it_does_with_an_example(repo: Repo, command: tuple[str, ...]) -> None:
    ended = repo.run(*command, "--help")
    assert ended.code == 0
    assert "Usage: reconciler " in ended.out
    assert re.search(r"Example:\s+(reconciler|eval)", ended.out), "an example"
    assert ended.out == repo.run(*command, "-h").out


def test_the_overview_lists_every_command_and_the_exit_codes(repo: Repo) -> None:
    ended = repo.run("--help")
    for name in COMMANDS:
        assert f"  {name} " in ended.out
    for code in ("0 done", "1 failed", "2 usage", "3 stalled", "4 refused", "5 held", "130"):
        assert code in " ".join(ended.out.split())


def test_a_mistyped_command_and_option(repo: Repo) -> None:
    mistyped = repo.run("aply", "x")
    assert mistyped.code == 2
    assert "Did you mean apply?" in mistyped.err
    assert repo.run("apply").code == 2
    assert repo.run("apply", "x", "--yess").code == 2
    assert repo.run("status", "-o", "xml").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(repo: Repo, shell: str) -> None:
    ended = repo.run("completion", shell)
    assert ended.code == 0
    assert "_RECONCILER_COMPLETE" in ended.out


def in_terminal(repo: Repo, *arguments: str, **env: str) -> str:
    """What a command writes to a terminal."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", *arguments],
        cwd=repo.root,
        stdin=side,
        stdout=side,
        stderr=side,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **env},
    )
    os.close(side)
    seen = b""
    while select.select([main], [], [], 30)[0]:
        try:
            got = os.read(main, 65536)
        except OSError:
            break
        if not got:
            break
        seen += got
    process.wait(30)
    os.close(main)
    return seen.decode()


def test_colours_are_for_terminals(repo: Repo) -> None:
    repo.applied(repo.commits[0])
    assert "\x1b[3" in in_terminal(repo, "status", "prod")
    path = repo.spec(repo.commits[1])
    ended = repo.call("apply", str(path), "--yes")
    assert "\x1b" not in ended.out + ended.err


def test_who_wants_no_colour_gets_none(repo: Repo) -> None:
    path = repo.spec(repo.commits[1])
    seen = in_terminal(repo, "apply", str(path), "--yes", NO_COLOR="1")
    assert "prod is stable." in seen
    assert not re.search(r"\x1b\[[0-9;]*m", seen)


def test_ctrl_c_during_a_run_exits_130_and_the_same_command_goes_on(repo: Repo) -> None:
    path = repo.spec(repo.commits[0], more=SLOW)
    started = repo.start("apply", str(path), "--yes")
    wait_for(lambda: "verify" in started.err.read_text(), seconds=60, what="verify")
    began = time.monotonic()
    ended = started.end(signal.SIGINT)
    assert time.monotonic() - began < 15
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert repo.run("status", "prod", "-o", "json").json["status"]["phase"] == "verify"
    repo.spec(repo.commits[0])
    again = repo.start("apply", str(path), "--yes")
    again.send(signal.SIGKILL)
    again.ended()


def test_ctrl_c_does_not_claim_that_nothing_was_touched(repo: Repo) -> None:
    path = repo.spec(repo.commits[0], more=SLOW)
    started = repo.start("apply", str(path), "--yes")
    wait_for(lambda: "verify" in started.err.read_text(), seconds=60, what="verify")
    assert "nothing was touched" not in started.end(signal.SIGINT).err


def piped(repo: Repo, *arguments: str) -> subprocess.Popen[bytes]:
    """A command whose reader has already left."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", *arguments],
        cwd=repo.root,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    return process


@pytest.mark.parametrize(
    "command", [("history",), ("history", "-o", "csv"), ("status",), ("schema",), ("--help",)]
)
def test_a_reader_that_leaves_is_no_error_to_complain_about(
    repo: Repo, command: tuple[str, ...]
) -> None:
    repo.applied(repo.commits[0])
    process = piped(repo, *command)
    _, error = process.communicate(timeout=60)
    assert error == b""


def test_a_bug_is_told_in_two_lines_and_its_traceback_kept(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repo.spec(repo.commits[0])

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("token=hunter2-hunter2")

    monkeypatch.setattr("reconciler.cli.apply.look", broken)
    ended = repo.run("plan", str(path))
    assert ended.code == 1
    assert ended.out == ""
    first, second = ended.err.splitlines()
    assert first == "Error: a bug in reconciler (ZeroDivisionError)."
    kept = Path(second.rpartition(" ")[2].rstrip("."))
    text = kept.read_text(encoding="utf-8")
    kept.unlink()
    assert "ZeroDivisionError" in text
    assert "hunter2" not in text


def test_a_bug_in_the_middle_of_a_run_stalls_with_its_traceback(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repo.spec(repo.commits[0])
    monkeypatch.setattr("reconciler.phases.verify.certify", None)
    ended = repo.run("apply", str(path), "--yes")
    assert ended.code == 3
    assert "A bug in reconciler stopped this run" in ended.err
    assert "Traceback (most" not in ended.err
    found = re.search(r"traceback is in (\S+?)\.?\s", ended.err)
    assert found is not None
    assert Path(found[1]).exists()
    monkeypatch.undo()
    monkeypatch.chdir(repo.root)
    assert repo.run("resume", "prod", "--reason", "updated").code == 0


def test_progress_that_nobody_reads_does_not_stall_a_run(repo: Repo) -> None:
    path = repo.spec(repo.commits[0])
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "reconciler", "apply", str(path), "--yes"],
        cwd=repo.root,
        stdout=subprocess.DEVNULL,
        stderr=writing,
    )
    os.close(writing)
    process.wait(60)
    status = repo.run("status", "prod", "-o", "json").json["status"]
    assert status["phase"] == "stable"


def test_output_that_cannot_be_written_is_told_and_a_reader_who_leaves_is_no_failure(
    repo: Repo,
) -> None:
    command = [sys.executable, "-m", "reconciler", "schema"]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ended = subprocess.run(
            command, cwd=repo.root, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1
    assert "No space left" in ended.stderr
    assert "Exception" not in ended.stderr
    reading, writing = os.pipe()
    os.close(reading)
    left = subprocess.run(
        command, cwd=repo.root, stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (left.returncode, left.stderr) == (0, b"")
