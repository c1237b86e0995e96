"""Wake-ups of the loop: which name to attend to and when, and the thread that hears of changed files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path


class Wakeups:
    """Names to attend to, each at most once, each not before its time."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._changed = threading.Condition()
        self._closed = False

    def wake(self, name: str, after: float = 0.0) -> None:
        """Asks for attention in some seconds. Of several wishes for one name the earliest counts."""
        with self._changed:
            at = time.monotonic() + after
            self._due[name] = min(at, self._due.get(name, at))
            self._changed.notify_all()

    def close(self) -> None:
        """Lets `next` give None from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def next(self) -> str | None:
        """Waits for the next name that is due and takes it out; None when closed."""
        with self._changed:
            while not self._closed:
                name = min(self._due, key=self._due.__getitem__, default=None)
                left = None if name is None else self._due[name] - time.monotonic()
                if name is not None and left is not None and left <= 0:
                    del self._due[name]
                    return name
                self._changed.wait(left)
            return None


def feed(path: Path, changed: Callable[[], None], stop: threading.Event) -> None:
    """Calls back after each burst of changes in a folder, until told to stop. Runs in a thread of its own.

    A folder that is replaced (by a checkout, or a link that moves) is found again: what is watched is the folder
    itself, not its name. Where the system gives no events, the timer still looks.
    """
    from watchfiles import watch

    while not stop.is_set():
        identity = _identity(path)
        if identity is None:
            stop.wait(1)
            continue
        try:
            # yields at least once a second, so that a replaced folder is noticed
            for changes in watch(
                path, watch_filter=None, debounce=400, stop_event=stop, rust_timeout=1000,
                yield_on_timeout=True, recursive=False, raise_interrupt=False,
            ):  # fmt: skip
                if changes:
                    changed()
                if _identity(path) != identity:
                    changed()
                    break
        except OSError:
            stop.wait(1)  # no watches left, or the folder has just gone


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
