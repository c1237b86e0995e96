"""From vectors to pins and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import facts as f
from reconciler.core.errors import NoLastKnownGoodError
from reconciler.core.loader import parse_spec
from reconciler.core.pins import DatabasePins, ServicePin, VolumePin
from reconciler.core.spec import Spec
from reconciler.core.vectors import (
    compensation_pins,
    differs,
    pins_from_spec,
    pins_from_vector,
    rollback_point,
    services_of,
)
from tests.support.records import artifact, effect, point, run

_names = st.from_regex(r"[a-z][a-z0-9._-]{0,8}", fullmatch=True)
_IDS = st.sampled_from(["sha256:aa", "sha256:bb"])


@st.composite
def _vectors(draw: st.DrawFn) -> dict[str, str | None]:
    vector: dict[str, str | None] = {}
    if draw(st.booleans()):
        vector[f.GIT_COMMIT] = draw(st.sampled_from(["c1", "c2"]))
        vector[f.GIT_HEAD] = draw(st.none() | st.just("refs/heads/main"))
    for name in draw(st.lists(_names, unique=True, max_size=3)):
        vector[f.service_image(name)] = draw(st.none() | _IDS)
        vector[f.service_state(name)] = draw(
            st.none() | st.sampled_from(["healthy", "running", "exited"])
        )
        vector[f.service_config(name)] = "hash"
    if draw(st.booleans()):
        vector[f.DATABASE_VERSION] = draw(st.none() | st.sampled_from(["1", "2"]))
    if draw(st.booleans()):
        vector[f.VERCEL_DEPLOYMENT] = draw(st.sampled_from(["dpl_a", "dpl_b"]))
    return vector


@given(_vectors())
def test_pins_say_what_the_vector_said(vector: dict[str, str | None]) -> None:
    pins = pins_from_vector(vector)
    assert pins.git == vector.get(f.GIT_COMMIT)
    assert pins.head == vector.get(f.GIT_HEAD)
    assert pins.vercel == vector.get(f.VERCEL_DEPLOYMENT)
    assert (pins.database is not None) == (f.DATABASE_VERSION in vector)
    if pins.database:
        assert pins.database.version == vector[f.DATABASE_VERSION]
    images = {name: vector[f.service_image(name)] for name in services_of(vector)}
    pinned = {name: pin.image for name, pin in pins.docker.services.items()} if pins.docker else {}
    assert pinned == {name: image for name, image in images.items() if image is not None}
    for name in pins.docker.best_effort if pins.docker else ():
        assert vector[f.service_state(name)] not in {"healthy", "running", "completed"}


@given(_vectors())
def test_pins_survive_being_written_down(vector: dict[str, str | None]) -> None:
    pins = pins_from_vector(vector)
    assert type(pins).model_validate_json(pins.model_dump_json()) == pins


@given(_vectors(), _vectors())
def test_a_vector_differs_from_another_in_its_release_and_not_in_its_health(
    one: dict[str, str | None], two: dict[str, str | None]
) -> None:
    assert not differs(one, one)
    sick = {key: "exited" if key.endswith(".state") else value for key, value in one.items()}
    assert not differs(one, sick)
    if f.GIT_COMMIT in one:
        assert differs(one, {**two, f.GIT_COMMIT: "c9"})


def test_a_database_without_migrations_is_pinned_to_none_and_one_not_seen_is_not_pinned() -> None:
    assert pins_from_vector({f.DATABASE_VERSION: None}).database == DatabasePins(version=None)
    assert pins_from_vector({f.GIT_COMMIT: "c"}).database is None


def test_what_was_overwritten_comes_back_from_the_first_backup() -> None:
    begun = run(
        before={f.service_image("app"): "sha256:aa"},
        effects={
            "1/restore/docker/restore-volume/data": effect(1),
            "2/restore/docker/restore-volume/data": effect(5, 6),
        },
        artifacts=(
            artifact("volume-backup", "data", "from-before"),
            artifact("volume-backup", "other", "not-overwritten"),
            artifact("volume-backup", "data", "of-a-half-written-volume"),
        ),
    )
    docker = compensation_pins(begun).docker
    assert docker is not None
    assert docker.volumes == {"data": VolumePin(path="from-before", sha256="0" * 64, own=True)}
    assert docker.services == {"app": ServicePin(image="sha256:aa")}


def test_migrations_that_may_have_been_taken_down_come_back_oldest_first_with_their_rows() -> None:
    begun = run(
        before={f.DATABASE_VERSION: "20"},
        effects={
            "1/restore/database/down/20": effect(1, 2),
            "1/restore/database/down/9": effect(3),
            "1/restore/database/up/21": effect(4, 5),
        },
        artifacts=(artifact("table-dump", "public.orders", "a"), artifact("logs", "app", "b")),
    )
    database = compensation_pins(begun).database
    assert database is not None
    assert database.version == "20"
    assert database.reapply == ("9", "20")
    assert [row.path for row in database.rows] == ["a"]


def test_without_destruction_the_way_back_is_just_the_vector() -> None:
    begun = run(before={f.DATABASE_VERSION: "3", f.service_image("app"): "sha256:aa"},
                effects={"1/restore/git/checkout/worktree": effect(1, 2)},
                artifacts=(artifact("volume-backup", "data", "x"), artifact("table-dump", "t", "y")))  # fmt: skip
    assert compensation_pins(begun) == pins_from_vector(begun.before)


def test_a_bare_rollback_goes_to_the_newest_point_that_differs_from_now() -> None:
    points = (
        point("p3", git__commit="bad"),
        point("p2", git__commit="good"),
        point("p1", git__commit="older"),
    )
    assert rollback_point(points, {f.GIT_COMMIT: "bad"}) == points[1]
    assert rollback_point(points, {f.GIT_COMMIT: "by hand"}) == points[0]
    assert rollback_point(points[1:2], {f.GIT_COMMIT: "good"}) is None
    assert rollback_point((), {f.GIT_COMMIT: "good"}) is None


def _spec(body: str) -> Spec:
    text = (
        f"apiVersion: reconciler/v1\nkind: Environment\nmetadata: {{name: prod}}\nspec:\n  {body}\n"
    )
    spec = parse_spec(text.encode(), "prod.yaml")
    assert isinstance(spec, Spec), spec
    return spec


def test_last_known_good_is_taken_from_the_verified_vector_field_by_field() -> None:
    spec = _spec(
        "git: {commit: last-known-good}\n  docker: {project: p, services: {app: {image: last-known-good}}}"
    )
    good = point("p", git__commit="c1", docker__service__app__image="sha256:aa")
    pins = pins_from_spec(spec, good)
    assert pins.git == "c1"
    assert pins.docker is not None
    assert pins.docker.services["app"].image == "sha256:aa"


@pytest.mark.parametrize("good", [None, point("p", vercel__deployment="dpl_a")])
def test_last_known_good_without_one_says_what_to_do(good: object) -> None:
    spec = _spec("git: {commit: last-known-good}")
    with pytest.raises(NoLastKnownGoodError, match=r"spec\.git\.commit") as raised:
        pins_from_spec(spec, good)  # type: ignore[arg-type]
    assert raised.value.hint
