"""The command line's entry. `--version` answers before anything else is loaded: it is asked by scripts, often."""

from __future__ import annotations

import sys

from reconciler import __version__


def main() -> None:
    """Runs the command line and exits with its code."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"reconciler {__version__}\n")
        return
    import gc

    # Loading makes objects that stay; looking for garbage among them is a tenth of its time.
    gc.set_threshold(50_000, 20, 100)
    # httpx looks for its own command line on import, and loads rich and pygments for it.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None bars it
    from reconciler.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
