"""The docker target's steps, as a pure function of what was seen and what is wanted.

The shape of a change: save evidence and make every image ready (capture); take down only what changes (stop); restore
volumes and re-point references (restore); bring up what is not as wanted (start). Called by `docker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from pydantic import JsonValue

from reconciler.core.facts import GIT_COMMIT, GIT_DIRTY, service_image, service_state
from reconciler.core.phase import Phase
from reconciler.core.plan import Step
from reconciler.targets.docker_change import TARGET, Change
from reconciler.targets.docker_materials import ServiceMaterial

ALL = "services"
#: Expected seconds of a stop whose first process handles the signal, and of a start.
_QUICK_STOP, _START = 0.5, 1.0
_SHOWN = 6


def steps(phase: Phase, found: Change) -> list[Step]:
    """The steps of one phase; none when nothing differs."""
    if found.empty:
        return []
    makers: Mapping[Phase, Callable[[Change], list[Step]]] = {
        Phase.CAPTURE: _capture,
        Phase.STOP: _stop,
        Phase.RESTORE: _restore,
        Phase.START: _start,
    }
    make = makers.get(phase)
    return make(found) if make else []


def _capture(found: Change) -> list[Step]:
    services = found.materials.services
    present = [name for name in (*found.affected, *found.gone) if found.state(name) is not None]
    plan: list[Step] = []
    if present:
        plan.append(
            _prepare(
                "save-logs",
                ALL,
                f"save logs and state of {_names(present)}",
                {"services": list[JsonValue](present)},
                once=True,
            )
        )
    plan.append(
        _prepare("preflight", ALL, "check that everything needed is in hand", _checks(found))
    )
    for name in found.affected:
        service = services[name]
        if not found.goal.wanted[service_image(name)].pending:
            continue
        makes: dict[str, JsonValue] = {"services": [name, *service.shares]}
        if service.pull:
            plan.append(
                _prepare("pull", name, f"pull {service.pull}", {**makes, "image": service.pull})
            )
        elif service.build:
            commit = found.materials.commit or ""
            args = {**makes, "commit": commit, "no_cache": service.no_cache}
            plan.append(_prepare("build", name, f"build {name} from {commit[:12]}", args))
    for name in found.volumes:
        args = found.materials.volumes[name].model_dump(mode="json")
        plan.append(_prepare("check-archive", name, f"check the archive {args['path']}", args))
    if kept := _kept(found):
        names = _names(cast("Mapping[str, JsonValue]", kept["images"]))
        plan.append(
            _prepare("keep", ALL, f"keep the images of {names} under a tag", kept, once=True)
        )
    return plan


def _checks(found: Change) -> dict[str, JsonValue]:
    goal, observed, services = found.goal, found.observed, found.materials.services
    stays = observed.value(GIT_COMMIT) == goal.value(GIT_COMMIT) is not None
    images: dict[str, JsonValue] = {
        name: goal.value(service_image(name))
        for name in found.affected
        if not goal.wanted[service_image(name)].pending
    }
    return {
        "images": images,
        "builds": [name for name in found.affected if services[name].build],
        # A tree that stays at its commit and is not clean would be started with other files than the commit's.
        "commit": found.materials.commit
        if stays and observed.value(GIT_DIRTY) == "dirty"
        else None,
    }


def _kept(found: Change) -> dict[str, JsonValue]:
    """Images that will no longer be used, and the repositories their tags go to."""
    images: dict[str, JsonValue] = {}
    references: dict[str, JsonValue] = {}
    for name in (*found.replaced, *found.gone):
        value = found.observed.value(service_image(name))
        if value:
            images[name] = list(value.removeprefix("mixed:").split(","))
            if name in found.materials.services:
                references[name] = found.materials.services[name].reference
    return {"images": images, "references": references} if images else {}


def _stop(found: Change) -> list[Step]:
    names = found.stopping
    removed = [name for name in found.emptied if found.state(name) is not None]
    if not names and not removed:
        return []
    levels = stop_levels(names, found.materials.services)
    args: dict[str, JsonValue] = {
        "levels": cast("JsonValue", levels),
        "remove": cast("JsonValue", removed),
        "volumes": [found.materials.volumes[name].engine_name for name in found.volumes],
    }
    slow = [
        name
        for name in names
        if name in found.materials.now and found.materials.now[name].ignores_stop
    ]
    words = f"stop {_names(names)}" if names else f"remove {_names(removed)}"
    for name in slow:
        words += f" ({name} ignores its stop signal and will be killed after {found.materials.now[name].grace:g} s)"
    return [
        _touch(
            Phase.STOP,
            "stop",
            ALL,
            words,
            args,
            downtime=sum(_slowest(found, level) for level in levels),
        )
    ]


def _slowest(found: Change, level: Sequence[str]) -> float:
    now = found.materials.now
    return max(
        (now[name].grace if now[name].ignores_stop else min(_QUICK_STOP, now[name].grace))
        if name in now
        else _QUICK_STOP
        for name in level
    )


def stop_levels(names: Iterable[str], services: Mapping[str, ServiceMaterial]) -> list[list[str]]:
    """Groups of services in the order in which they are stopped: who depends on others goes before them."""
    left = set(names)
    levels: list[list[str]] = []
    while left:
        needed = {
            other
            for name in left
            if name in services
            for other in (*services[name].depends_on, *services[name].follows)
            if other != name
        }
        level = sorted(left - needed) or sorted(left)  # a ring is stopped at once
        levels.append(level)
        left -= set(level)
    return levels


def _restore(found: Change) -> list[Step]:
    plan: list[Step] = []
    for name in found.volumes:
        args = found.materials.volumes[name].model_dump(mode="json")
        plan.append(
            _touch(
                Phase.RESTORE,
                "backup-volume",
                name,
                f"back up the volume {name}",
                args,
                once=True,
                touches=False,
            )
        )
        plan.append(
            _touch(
                Phase.RESTORE, "restore-volume", name, f"restore the volume {name} from {args['path']}", args,
                data_loss=True,
            )
        )  # fmt: skip
    seen: set[str] = set()
    for name in found.replaced:
        reference = found.materials.services[name].reference
        wanted = found.goal.wanted[service_image(name)]
        if reference in seen:
            continue
        seen.add(reference)
        words = f"point {reference} at {wanted.detail or (wanted.value or 'the new image')[:19]}"
        plan.append(
            _touch(
                Phase.RESTORE, "retag", name, words, {"reference": reference, "image": wanted.value}
            )
        )
    return plan


def _start(found: Change) -> list[Step]:
    services, goal = found.materials.services, found.goal
    if not found.affected and not found.gone:
        return []
    around = _with_dependencies(found.affected, services)
    args: dict[str, JsonValue] = {
        "services": list(found.affected),
        "remove": list(found.gone),
        "wait": {
            name: state for name in found.affected if (state := goal.value(service_state(name)))
        },
        "keep": {
            name: state
            for name in services
            if name not in found.affected and (state := goal.value(service_state(name)))
        },
        "needs": {name: dict(services[name].depends_on) for name in around},
        "by_compose": [name for name in found.affected if services[name].needs_compose],
        # Compose looks at what they depend on as well, and would recreate what names another image by now.
        "images": {services[name].reference: goal.value(service_image(name)) for name in around},
    }
    words = f"start {_names(found.affected)}" if found.affected else ""
    if found.gone:
        words += f"{', ' if words else ''}remove {_names(found.gone)}"
    return [_touch(Phase.START, "up", ALL, words, args, downtime=_START if found.affected else 0)]


def _with_dependencies(names: Iterable[str], services: Mapping[str, ServiceMaterial]) -> list[str]:
    around, new = set(names), set(names)
    while new:
        new = {
            other for name in new for other in services[name].depends_on if other in services
        } - around
        around |= new
    return sorted(around)


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _prepare(
    action: str, subject: str, summary: str, args: Mapping[str, JsonValue], *, once: bool = False
) -> Step:
    return Step(
        phase=Phase.CAPTURE, target=TARGET, action=action, subject=subject, summary=summary,
        args=args, once=once, touches=False,
    )  # fmt: skip


def _touch(
    phase: Phase, action: str, subject: str, summary: str, args: Mapping[str, JsonValue], *,
    once: bool = False, touches: bool = True, downtime: float = 0.0,
    data_loss: bool = False,
) -> Step:  # fmt: skip
    return Step(
        phase=phase, target=TARGET, action=action, subject=subject, summary=summary, args=args, once=once,
        touches=touches, downtime=downtime, data_loss=data_loss,
    )  # fmt: skip
