"""The practice shop's front end: pushed to, promoted and looked up on the practice Vercel, over HTTP.

The calls are those a team's pipeline and the vendor's dashboard make. Called by `production`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reconciler.core.errors import StepFailedError
from reconciler.sandbox.practice_record import VERCEL_PROJECT
from reconciler.sandbox.practice_servers import ApiProcess

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.05


def push(api: ApiProcess, version: str, commit: str) -> str:
    """Lets Vercel build a commit, as a push to `main` does; gives the deployment when it is ready.

    It goes live by itself, unless a rollback has stopped that.

    Raises:
        StepFailedError: The build did not end.
    """
    body = {
        "name": VERCEL_PROJECT,
        "target": "production",
        "gitSource": {"type": "github", "ref": "main", "sha": commit},
        "meta": {"release": version},
    }
    made = api.call("POST", "/v13/deployments", body)
    deployment = str(made["id"]) if isinstance(made, dict) else ""

    def ready() -> bool:
        shown = api.call("GET", f"/v13/deployments/{deployment}")
        return isinstance(shown, dict) and shown.get("readyState") == "READY"

    wait_for(ready, f"The build of {version} on Vercel")
    return deployment


def promote(api: ApiProcess, deployment: str) -> None:
    """Puts a deployment in front of production, and waits until it is.

    Raises:
        StepFailedError: Vercel refused, or did not do it.
    """
    if production(api) != deployment:
        api.call("POST", f"/v10/projects/{VERCEL_PROJECT}/promote/{deployment}", {})
        wait_for(lambda: production(api) == deployment, "The promotion")


def production(api: ApiProcess) -> str | None:
    """The deployment that serves production."""
    project = api.call("GET", f"/v9/projects/{VERCEL_PROJECT}")
    targets = project.get("targets") if isinstance(project, dict) else None
    serving = (targets or {}).get("production") or {}
    return serving.get("id")


def wait_for(there: Callable[[], bool], what: str) -> None:
    """Looks until something is there.

    Raises:
        StepFailedError: It did not come.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise StepFailedError(f"{what} did not come within {_WAIT_SECONDS:g} s.")
        time.sleep(_POLL_SECONDS)
