"""The four targets of a world in memory. They trust the engine, and do what a step says (see `worldparts`)."""

from __future__ import annotations

from reconciler.core import facts as f
from reconciler.core.crashpoints import CrashPoint
from reconciler.core.errors import TargetUnavailableError
from reconciler.core.phase import Phase
from reconciler.core.plan import Step
from reconciler.targets.base import Applied, ApplyContext
from tests.support.worldparts import SERVICES, VOLUME, MemoryTarget, Wish, World


class GitMemory(MemoryTarget):
    """The working tree."""

    def steps(self, wish: Wish) -> None:
        if wish.phase is Phase.RESTORE and wish.mine:
            wish.add("checkout", "worktree", {"commit": wish.goal.value(f.GIT_COMMIT)})

    def change(self, step: Step, context: ApplyContext) -> Applied:
        context.at(CrashPoint.MID_EFFECT)
        self.world.commit = str(step.args["commit"])
        return Applied(facts=self.seen())


class DockerMemory(MemoryTarget):
    """Two services and a volume."""

    def steps(self, wish: Wish) -> None:
        images = any(key.endswith(".image") for key in wish.mine)
        restores = f.volume_restored(VOLUME) in wish.mine
        running = any(wish.observed.value(f.service_state(name)) == "running" for name in SERVICES)
        match wish.phase:
            case Phase.CAPTURE if wish.mine:
                wish.add("save-logs", "app", once=True, touches=False)
            case Phase.STOP if running and (images or restores or wish.now != wish.then):
                quiet = self.world.contained and not (images or restores)
                wish.add("stop", "services", {"names": ["app"] if quiet else list(SERVICES)})
            case Phase.RESTORE:
                if restores:
                    wish.add("back-up-volume", VOLUME, once=True, touches=False)
                    args = {"sha256": wish.goal.value(f.volume_restored(VOLUME)), **wish.material}
                    wish.add("restore-volume", VOLUME, args, data_loss=True)
                if images:
                    wish.add("retag", "services")
            case Phase.START if wish.mine:
                images_wanted = {name: wish.goal.value(f.service_image(name)) for name in SERVICES}
                wish.add("up", "services", images_wanted)

    def change(self, step: Step, context: ApplyContext) -> Applied:
        world = self.world
        first, second = SERVICES
        match step.action:
            case "stop":
                world.serve(first, None)
                context.at(CrashPoint.MID_EFFECT)
                if step.args["names"] == list(SERVICES):
                    world.serve(second, None)
            case "up":
                world.serve(first, str(step.args[first]))
                context.at(CrashPoint.MID_EFFECT)
                world.serve(second, str(step.args[second]))
                return Applied(facts=self.seen())
            case "back-up-volume":
                context.at(CrashPoint.MID_EFFECT)
                artifact = self.saved(context, "volume-backup", VOLUME, world.content())
                return Applied(artifacts=[artifact])
            case "restore-volume":
                kept = [item for item in context.artifacts if item.kind == "volume-backup"]
                world.must(bool(kept), "a volume was overwritten without a backup")
                world.must(not any(world.running.values()), "a volume was overwritten while in use")
                world.volume = "half written"
                world.restored = None
                context.at(CrashPoint.MID_EFFECT)
                archive = context.states / str(step.args["archive"])
                world.fill(archive.read_text(encoding="utf-8"))
                world.restored = str(step.args["sha256"])
                return Applied(facts=self.seen())
            case "save-logs":
                context.at(CrashPoint.MID_EFFECT)
                return Applied(artifacts=[self.saved(context, "logs", "app", "it went wrong")])
            case _:
                context.at(CrashPoint.MID_EFFECT)
                world.effects[step.action] += 1
                return Applied()
        return Applied(facts=self.seen())


class DatabaseMemory(MemoryTarget):
    """Migrations, one transaction each, and the rows that go with them."""

    def steps(self, wish: Wish) -> None:
        now, then = wish.now, wish.then
        if wish.phase is Phase.CAPTURE and now > then:
            wish.add("dump", "tables", {"from": now, "to": then}, once=True, touches=False)
        if wish.phase is Phase.RESTORE:
            for version in range(now, then, -1):
                wish.add("down", str(version), data_loss=True, irreversible=True)
            for version in range(now + 1, then + 1):
                wish.add("up", str(version))
            rows = wish.material.get("rows")
            for subject in rows if isinstance(rows, list) else ():
                wish.add("restore-rows", str(subject))

    def change(self, step: Step, context: ApplyContext) -> Applied:
        world = self.world
        if step.action == "dump":
            context.at(CrashPoint.MID_EFFECT)
            low, high = int(str(step.args["to"])), int(str(step.args["from"]))
            return Applied(
                artifacts=[
                    self.saved(context, "table-dump", str(version), f"rows of {version}")
                    for version in range(low + 1, high + 1)
                    if version in world.rows
                ]
            )
        if not world.serving:
            raise TargetUnavailableError("connection refused")
        version = int(step.subject)
        present = version in world.versions
        if context.attempted is not None and present is (step.action == "up"):
            return Applied(facts=self.seen(), note="already done, found by looking")
        context.at(CrashPoint.MID_EFFECT)
        match step.action:
            case "down":
                world.must(world.versions[-1:] == [version], f"down {version} out of order")
                world.must(not world.running["app"], f"down {version} while in use")
                dumped = {int(a.subject) for a in context.artifacts if a.kind == "table-dump"}
                lost = {version} & world.rows
                world.must(lost <= dumped, f"rows of {version} were lost without a dump")
                world.versions.remove(version)
                world.rows.discard(version)
            case "up":
                world.must(not present, f"up {version} twice")
                world.versions.append(version)
            case _:
                world.must(present, f"rows of {version} were put back into nothing")
                world.rows.add(version)
        world.effects[f"{step.action} {version}"] += 1
        return Applied(facts=self.seen())


class VercelMemory(MemoryTarget):
    """The front end: a request to move is sent once, then followed by reading."""

    def steps(self, wish: Wish) -> None:
        if wish.phase is Phase.START and wish.mine:
            wish.add("move", "production", {"to": wish.goal.value(f.VERCEL_DEPLOYMENT)})

    def change(self, step: Step, context: ApplyContext) -> Applied:
        world, there = self.world, str(step.args["to"])
        if context.attempted is not None and world.deployment == there:
            return Applied(facts=self.seen(), note="already there, found by looking")
        context.at(CrashPoint.MID_EFFECT)
        world.must(all(world.running.values()), "traffic moved while services were down")
        world.must(world.deployment != there, f"moved to {there} twice")
        world.deployment = there
        world.effects[f"move to {there}"] += 1
        return Applied(facts=self.seen())


def targets_of(world: World) -> dict[str, MemoryTarget]:
    """The four targets of a world."""
    kinds = {
        "git": GitMemory,
        "docker": DockerMemory,
        "database": DatabaseMemory,
        "vercel": VercelMemory,
    }
    return {name: kind(name, world) for name, kind in kinds.items()}
