"""What planning needs to know of a resolved goal: kept with the goal in the ledger, so it may be read back much later.

It holds what belongs to the goal itself. What production looks like now comes from observed facts, except the few
figures under `now`, which only word summaries. Made by `docker_resolve`, read by `docker_plan`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class ServiceMaterial(_Frozen):
    """One service of the goal.

    Attributes:
        reference: The image reference Compose starts it from.
        pull: Reference to be pulled first; None when its image is here.
        build: Whether its image is still to be built.
        no_cache: Whether it is built without the layer cache.
        shares: Other services started from the same reference: they get the same image.
        depends_on: Condition by service.
        needs_compose: Only Compose can start it (inline secrets and configs, hooks).
        follows: Services whose containers it shares: it is recreated with them.
        volumes: Engine names of the volumes it mounts.
        best_effort: It was not well when the vector was captured: brought up, not waited for.
    """

    reference: str
    pull: str | None = None
    build: bool = False
    no_cache: bool = False
    shares: tuple[str, ...] = ()
    depends_on: Mapping[str, str] = Field(default_factory=dict)
    needs_compose: bool = False
    follows: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    best_effort: bool = False


class VolumeMaterial(_Frozen):
    """One volume to be restored.

    Attributes:
        engine_name: The engine's name for it.
        path: The archive, relative to the project root or to the state folder.
        sha256: Its digest, in hex.
        own: The archive is a backup of ours, under the state folder.
    """

    engine_name: str
    path: str
    sha256: str
    own: bool = False


class NowMaterial(_Frozen):
    """How a service ran when the goal was resolved. Only words summaries and estimates.

    Attributes:
        grace: Seconds its slowest container is given to stop.
        ignores_stop: Its first process does not handle the stop signal, so the grace is used up.
    """

    grace: float = 10.0
    ignores_stop: bool = False


class Materials(_Frozen):
    """Everything of the docker target's goal that is no fact.

    Attributes:
        commit: The commit whose compose files and build contexts count; None for the working tree.
        services: Services of the goal, by name.
        volumes: Volumes to be restored, by the spec's name.
        now: How services ran at that time, by name.
    """

    commit: str | None = None
    services: Mapping[str, ServiceMaterial] = Field(default_factory=dict)
    volumes: Mapping[str, VolumeMaterial] = Field(default_factory=dict)
    now: Mapping[str, NowMaterial] = Field(default_factory=dict)
