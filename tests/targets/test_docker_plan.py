"""The docker target's plan, as data: which steps, in which order, for whom."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.facts import (
    DATABASE_VERSION,
    GIT_COMMIT,
    GIT_DIRTY,
    Fact,
    Goal,
    Observation,
    Wanted,
    service_config,
    service_image,
    service_state,
    volume_restored,
)
from reconciler.core.phase import WORK_ORDER, Phase
from reconciler.core.plan import Step
from reconciler.targets.containers import state_of, worst
from reconciler.targets.docker_change import change
from reconciler.targets.docker_materials import (
    Materials,
    NowMaterial,
    ServiceMaterial,
    VolumeMaterial,
)
from reconciler.targets.docker_plan import steps, stop_levels
from reconciler.targets.images import is_digest, keep_tags, split

OLD, NEW = "sha256:old", "sha256:new"
Services = Mapping[str, ServiceMaterial]


def facts(
    service: str, image: str | None = NEW, config: str | None = "c", state: str | None = "healthy"
) -> list[Fact]:
    return [
        Fact(key=service_image(service), value=image),
        Fact(key=service_config(service), value=config),
        Fact(key=service_state(service), value=state),
    ]


def seen(*known: list[Fact]) -> Observation:
    return Observation.of(
        datetime(2026, 1, 1, tzinfo=UTC), [fact for each in known for fact in each]
    )


def goal(
    services: Services,
    *more: Wanted,
    gone: tuple[str, ...] = (),
    pending: tuple[str, ...] = (),
    **materials: object,
) -> Goal:
    wanted = [
        each
        for name in services
        for each in (
            Wanted(
                key=service_image(name),
                value=None if name in pending else OLD,
                pending=name in pending,
            ),
            Wanted(key=service_config(name), value="c"),
            Wanted(key=service_state(name), value="healthy"),
        )
    ]
    wanted += [
        Wanted(key=key(name))
        for name in gone
        for key in (service_image, service_config, service_state)
    ]
    made = Materials.model_validate({"services": services, **materials})
    return Goal(
        wanted={each.key: each for each in [*wanted, *more]},
        materials={"docker": made.model_dump(mode="json")},
    )


def service(name: str, *needs: str, **more: object) -> ServiceMaterial:
    depends = dict.fromkeys(needs, "service_started")
    return ServiceMaterial.model_validate({"reference": f"{name}:1", "depends_on": depends, **more})


def every(observed: Observation, wanted: Goal, pinned: tuple[str, ...] = ()) -> list[Step]:
    found = change(observed, wanted, pinned)
    return [step for phase in WORK_ORDER for step in steps(phase, found)]


def keys(planned: list[Step]) -> list[str]:
    return [f"{step.action}/{step.subject}" for step in planned]


def test_nothing_differs_nothing_is_planned() -> None:
    assert every(seen(facts("web", OLD)), goal({"web": service("web")})) == []


def test_only_services_that_differ_are_named() -> None:
    wanted = goal({"web": service("web", "store"), "store": service("store")})

    planned = every(seen(facts("web", NEW), facts("store", OLD)), wanted)

    assert keys(planned) == [
        "save-logs/services",
        "preflight/services",
        "keep/services",
        "stop/services",
        "retag/web",
        "up/services",
    ]
    assert planned[3].args["levels"] == [["web"]]
    assert planned[5].args["services"] == ["web"]
    assert planned[5].args["images"] == {"web:1": OLD, "store:1": OLD}, (
        "Compose looks at the store too"
    )
    assert [step.touches for step in planned] == [False, False, False, True, True, True]
    assert [step.once for step in planned] == [True, False, True, False, False, False]


def test_a_restored_volume_takes_down_who_mounts_it_and_is_backed_up_first() -> None:
    services = {"db": service("db", volumes=["p_data"]), "web": service("web", "db")}
    restored = Wanted(key=volume_restored("data"), value="aa")
    volumes = {"data": VolumeMaterial(engine_name="p_data", path="b.tar.gz", sha256="aa")}
    wanted = goal(services, restored, volumes=volumes)

    planned = every(seen(facts("db", OLD), facts("web", OLD), [Fact(key=restored.key)]), wanted)

    assert keys(planned)[-4:] == [
        "stop/services",
        "backup-volume/data",
        "restore-volume/data",
        "up/services",
    ]
    assert "check-archive/data" in keys(planned)
    stop = planned[-4]
    assert (stop.args["levels"], stop.args["remove"], stop.args["volumes"]) == (
        [["db"]],
        ["db"],
        ["p_data"],
    )
    assert (planned[-3].once, planned[-3].touches, planned[-3].data_loss) == (True, False, False)
    assert planned[-2].data_loss


def test_services_that_share_a_container_go_down_with_it() -> None:
    services = {
        "main": service("main"),
        "side": service("side", follows=["main"]),
        "far": service("far"),
    }

    planned = every(seen(facts("main", NEW), facts("side", OLD), facts("far", OLD)), goal(services))

    stop = next(step for step in planned if step.action == "stop")
    assert stop.args["levels"] == [["side"], ["main"]]
    assert planned[-1].args["services"] == ["main", "side"]


def test_a_service_that_only_needs_time_is_not_stopped() -> None:
    planned = every(seen(facts("web", OLD, state="starting")), goal({"web": service("web")}))

    assert "stop/services" not in keys(planned)
    assert keys(planned)[-1] == "up/services"


def test_a_sick_service_is_stopped_and_started() -> None:
    for state in ("unhealthy", "restarting", "paused"):
        planned = every(seen(facts("web", OLD, state=state)), goal({"web": service("web")}))
        assert keys(planned)[-2:] == ["stop/services", "up/services"]


def test_what_vanishes_is_stopped_kept_and_removed() -> None:
    planned = every(
        seen(facts("web", OLD), facts("old", NEW)), goal({"web": service("web")}, gone=("old",))
    )

    assert planned[-1].args["remove"] == ["old"]
    assert planned[-1].args["services"] == []
    keep = next(step for step in planned if step.action == "keep")
    assert keep.args["images"] == {"old": [NEW]}
    assert (
        every(
            seen(facts("web", OLD), facts("old", None, None, None)),
            goal({"web": service("web")}, gone=("old",)),
        )
        == []
    )


def test_pinned_services_are_kept_down_while_the_database_changes() -> None:
    services = {"web": service("web"), "store": service("store")}
    wanted = goal(services, Wanted(key=DATABASE_VERSION, value="1"))
    observed = seen(facts("web", OLD), facts("store", OLD), [Fact(key=DATABASE_VERSION, value="2")])

    planned = every(observed, wanted, pinned=("web",))

    assert [step.args.get("levels") for step in planned if step.action == "stop"] == [[["web"]]]
    assert planned[-1].args["services"] == ["web"]
    assert every(observed, goal(services), pinned=("web",)) == []


def test_images_to_be_made_are_made_in_capture() -> None:
    services = {
        "a": service("a", pull="reg/a:1", shares=["c"]),
        "b": service("b", build=True),
        "c": service("a"),
    }
    wanted = goal(services, pending=("a", "b", "c"), commit="f" * 40)

    planned = every(seen(facts("a"), facts("b"), facts("c")), wanted)

    assert [key for key in keys(planned) if key.startswith(("pull", "build"))] == [
        "pull/a",
        "build/b",
    ]
    assert next(step for step in planned if step.action == "pull").args["services"] == ["a", "c"]
    assert all(step.phase is Phase.CAPTURE for step in planned if step.action in {"pull", "build"})
    assert [key for key in keys(planned) if key.startswith("retag")] == ["retag/a", "retag/b"], (
        "one a reference"
    )


def test_a_dirty_tree_that_stays_is_checked_against_the_commit() -> None:
    git = [Fact(key=GIT_COMMIT, value="f"), Fact(key=GIT_DIRTY, value="dirty")]
    wanted = goal({"web": service("web")}, Wanted(key=GIT_COMMIT, value="f"), commit="f")

    planned = every(seen(facts("web"), git), wanted)

    assert next(step for step in planned if step.action == "preflight").args["commit"] == "f"


def test_a_stop_that_takes_its_grace_is_expected_to() -> None:
    now = {"web": NowMaterial(grace=10, ignores_stop=True), "db": NowMaterial(grace=60)}
    services = {"web": service("web", "db"), "db": service("db")}

    planned = every(seen(facts("web"), facts("db")), goal(services, now=now))

    stop = next(step for step in planned if step.action == "stop")
    assert stop.downtime == 10.5
    assert "web ignores its stop signal and will be killed after 10 s" in stop.summary


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
GRAPHS = st.dictionaries(NAMES, st.frozensets(NAMES, max_size=3), max_size=5)
STATES = st.sampled_from(
    ["healthy", "unhealthy", "starting", "exited(1)", "paused", "restarting", None]
)


@given(GRAPHS)
def test_every_service_is_stopped_once_and_dependents_first(
    graph: dict[str, frozenset[str]],
) -> None:
    services = {name: service(name, *(needs & set(graph))) for name, needs in graph.items()}

    levels = stop_levels(graph, services)

    order = [name for level in levels for name in level]
    assert sorted(order) == sorted(graph)
    acyclic = all(n not in services[m].depends_on or n > m for n in graph for m in graph)
    if acyclic:
        for name in graph:
            assert all(order.index(name) < order.index(need) for need in services[name].depends_on)


@given(
    st.dictionaries(
        NAMES,
        st.tuples(st.sampled_from([OLD, NEW, None]), st.sampled_from(["c", "d", None]), STATES),
    ),
    GRAPHS,
)
def test_plans_are_stable_and_leave_equal_services_alone(
    now: dict[str, tuple[str | None, str | None, str | None]], graph: dict[str, frozenset[str]]
) -> None:
    services = {name: service(name, *needs) for name, needs in graph.items()}
    observed = seen(*(facts(name, *now.get(name, (None, None, None))) for name in graph))
    wanted = goal(services)

    planned = every(observed, wanted)

    assert planned == every(observed, wanted)
    assert len({step.key for step in planned}) == len(planned)
    equal = {name for name in graph if now.get(name) == (OLD, "c", "healthy")}
    named = {name for step in planned for level in step.args.get("levels") or () for name in level}  # type: ignore[union-attr]
    brought = set(planned[-1].args["services"]) if planned else set()  # type: ignore[arg-type]
    assert not equal & (named | brought)
    assert set(graph) - equal == brought


@given(
    st.lists(
        st.sampled_from(["healthy", "running", "starting", "exited(1)", "dead", "unhealthy"]),
        min_size=1,
    )
)
def test_the_worst_replica_speaks(states: list[str]) -> None:
    assert worst(states) in states
    assert (worst(states) == "healthy") == (set(states) == {"healthy"})


def test_listed_states_are_told_in_our_words() -> None:
    assert state_of("running", "Up 3 minutes (healthy)") == "healthy"
    assert state_of("running", "Up Less than a second (health: starting)") == "starting"
    assert state_of("running", "Up 5 seconds (unhealthy)") == "unhealthy"
    assert state_of("running", "Up 5 seconds") == "running"
    assert state_of("exited", "Exited (137) 2 minutes ago") == "exited(137)"
    assert state_of("paused", "Up 5 minutes (Paused)") == "paused"
    assert state_of("restarting", "Restarting (1) 5 seconds ago") == "restarting"
    assert state_of("removing", "Removal In Progress") == "dead"


def test_references_are_split_where_docker_splits_them() -> None:
    assert split("app") == ("app", "latest")
    assert split("app:v1") == ("app", "v1")
    assert split("reg:5000/team/app") == ("reg:5000/team/app", "latest")
    assert split("reg:5000/team/app:v1") == ("reg:5000/team/app", "v1")
    assert split("app:v1@sha256:00") == ("app", "v1")
    assert is_digest("app@sha256:00")
    assert is_digest("sha256:00")
    assert not is_digest("app:sha256")


def test_every_replaced_image_keeps_a_name_of_its_own() -> None:
    names = keep_tags(
        "r1", {"a": ["i1", "i2"], "b": ["i1"], "c": ["i3"]}, {"a": "x:1", "b": "x:2", "c": "x"}
    )

    assert set(names.values()) == {"i1", "i2", "i3"}
    assert names["x:reconciler-before-r1"] == "i1"
    assert all(name.startswith("x:reconciler-before-r1") for name in names)
