"""The practice Vercel, asked over HTTP and by the vendor's real command line."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from reconciler.core.errors import UsageError
from reconciler.sandbox import serve
from reconciler.sandbox.faults import Fault, FaultKind
from reconciler.sandbox.server import ApiServer
from reconciler.sandbox.store import now_ms
from reconciler.sandbox.vercel_api import VercelApi
from reconciler.sandbox.vercel_state import Settings, new_state
from tests.sandbox.practice import TOKEN, Caller, Served, bearer, caller
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.programs import VercelCli

pytestmark = pytest.mark.process

DOMAINS = ("omniops.vercel.app", "www.omniops.example", "omniops.example")


@dataclass
class Production:
    """A practice Vercel with three releases; the last one serves."""

    api: VercelApi
    caller: Caller
    url: str
    releases: list[str]
    preview: str
    broken: str
    server: ApiServer

    @property
    def project(self) -> str:
        return self.api.state().projects[0].id

    def show(self) -> dict[str, Any]:
        shown: dict[str, Any] = self.caller.get("/v9/projects/omniops")
        return shown

    def rollback(self, deployment: str, **params: str) -> Any:
        path = f"/v1/projects/{self.project}/rollback/{deployment}"
        return self.caller.call("POST", path, params=params)

    def promote(self, deployment: str) -> Any:
        return self.caller.call("POST", f"/v10/projects/{self.project}/promote/{deployment}", {})

    def settled(self) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            shown = self.show()
            done = shown["lastAliasRequest"]["jobStatus"] in {"succeeded", "failed"}
            return shown if done else None

        return wait_for(look, what="the end of the move")


def serving(shown: dict[str, Any]) -> set[str]:
    return {alias["deployment"]["id"] for alias in shown["alias"]}


@pytest.fixture
def settings() -> Settings:
    return Settings(alias_delay_ms=40, alias_step_ms=40, build_ms=40)


@pytest.fixture
def production(tmp_path: Path, settings: Settings) -> Iterator[Production]:
    api = VercelApi(
        token=TOKEN,
        path=tmp_path / "vercel.json",
        initial=new_state(now=now_ms(), settings=settings),
    )
    releases = [api.deploy(sha=str(number) * 40) for number in range(1, 4)]
    preview = api.deploy(sha="a" * 40, production=False)
    broken = api.deploy(sha="b" * 40, error="Command npm run build exited with 1")
    with ApiServer(api) as server, caller(server, "vercel") as client:
        yield Production(api, client, server.url, releases, preview, broken, server)


def test_answers_who_owns_the_token(production: Production) -> None:
    ask = production.caller
    user = ask.get("/v2/user")["user"]
    team = ask.get(f"/teams/{user['defaultTeamId']}")
    assert team["slug"] == "acme"
    assert ask.get("/v2/teams/acme")["id"] == team["id"]
    assert ask.get("/v1/teams")["teams"] == ask.get("/v2/teams")["teams"] == [team]


@pytest.mark.parametrize(("token", "extra"), [("", "missingToken"), ("wrong", "invalidToken")])
def test_refuses_a_wrong_token(production: Production, token: str, extra: str) -> None:
    stranger = Caller(production.url, "vercel", token=token)
    with stranger:
        response = stranger.call("GET", "/v2/user")
    assert response.status_code == 403
    assert response.json()["error"][extra] is True


def test_unknown_routes_and_teams_have_the_error_shape(production: Production) -> None:
    ask = production.caller
    assert ask.call("GET", "/v9/nothing").json()["error"]["code"] == "not_found"
    assert ask.call("DELETE", "/v9/projects/omniops").status_code == 404
    assert ask.call("GET", "/v9/projects/other").status_code == 404
    assert ask.call("GET", "/v13/deployments/none.vercel.app").status_code == 404
    foreign = ask.call("GET", "/v9/projects/omniops", params={"teamId": "team_other"})
    assert foreign.status_code == 403


def test_shows_which_deployment_is_production(production: Production) -> None:
    shown = production.show()
    assert shown["targets"]["production"]["id"] == production.releases[-1]
    assert shown["targets"]["production"]["readySubstate"] == "PROMOTED"
    assert serving(shown) == {production.releases[-1]}
    assert shown["rollingRelease"] is None
    by_alias = production.caller.get(f"/v13/deployments/{DOMAINS[1]}")
    assert by_alias["id"] == production.releases[-1]
    by_url = production.caller.get(f"/v13/deployments/{by_alias['url']}")
    assert by_url == by_alias
    assert by_alias["team"]["id"] == by_alias["ownerId"] == shown["accountId"]
    projects = production.caller.get("/v10/projects")["projects"]
    assert [project["id"] for project in projects] == [shown["id"]]


def test_lists_newest_first_and_pages(production: Production) -> None:
    ask = production.caller
    first = ask.get("/v6/deployments", projectId="omniops", limit=3)
    rest = ask.get("/v6/deployments", limit=3, until=first["pagination"]["next"])
    ids = [item["uid"] for item in first["deployments"] + rest["deployments"]]
    assert ids == [production.broken, production.preview, *reversed(production.releases)]
    assert rest["pagination"]["next"] is None
    assert ask.call("GET", "/v6/deployments", params={"limit": "101"}).status_code == 400


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"target": "preview"}, ["preview"]),
        ({"target": "production", "state": "READY"}, ["3", "2", "1"]),
        ({"state": "ERROR,CANCELED"}, ["broken"]),
        ({"sha": "1" * 40}, ["1"]),
        ({"meta-githubCommitSha": "2" * 40}, ["2"]),
        ({"rollbackCandidate": "true"}, ["3", "2", "1"]),
        ({"rollbackCandidate": "false"}, ["broken", "preview"]),
        ({"app": "elsewhere"}, []),
    ],
)
def test_filters_the_list(
    production: Production, params: dict[str, str], expected: list[str]
) -> None:
    names = dict(zip(production.releases, "123", strict=True))
    names |= {production.preview: "preview", production.broken: "broken"}
    found = production.caller.get("/v7/deployments", **params)["deployments"]
    assert [names[item["uid"]] for item in found] == expected


@pytest.mark.parametrize("version", ["v1", "v9"])
def test_rollback_moves_the_aliases_one_after_the_other(
    production: Production, version: str
) -> None:
    goal = production.releases[0]
    path = f"/{version}/projects/{production.project}/rollback/{goal}"
    production.caller.ask_control("PATCH", "/__settings", {"alias_step_ms": 700})
    assert production.caller.call("POST", path, {}).status_code == 201
    request = production.show()["lastAliasRequest"]
    assert request["type"] == "rollback"
    assert request["toDeploymentId"] == goal
    assert request["fromDeploymentId"] == production.releases[-1]
    assert now_ms() - 60_000 < request["requestedAt"] <= now_ms()
    seen: list[tuple[str, int]] = []

    def look() -> bool:
        shown = production.show()
        moved = sum(alias["deployment"]["id"] == goal for alias in shown["alias"])
        seen.append((shown["lastAliasRequest"]["jobStatus"], moved))
        return seen[-1][0] == "succeeded"

    wait_for(look)
    assert [status for status, _ in seen] == sorted(
        (status for status, _ in seen), key=("pending", "in-progress", "succeeded").index
    )
    assert {1, 2} & {moved for status, moved in seen if status == "in-progress"}
    shown = production.show()
    assert serving(shown) == {goal}
    assert shown["targets"]["production"]["id"] == goal
    assert shown["autoAssignCustomDomains"] is False
    (effect,) = production.api.effects()
    assert effect.route == f"POST /{version}/projects/{{project}}/rollback/{{deployment}}"
    assert effect.ids["deployment"] == goal


def test_promote_ends_a_rollback(production: Production) -> None:
    production.rollback(production.releases[0])
    production.settled()
    assert production.promote(production.releases[2]).status_code == 201
    shown = production.settled()
    assert shown["lastAliasRequest"]["type"] == "promote"
    assert serving(shown) == {production.releases[2]}
    assert shown["autoAssignCustomDomains"] is True


def test_after_a_rollback_new_builds_do_not_go_live(production: Production) -> None:
    production.rollback(production.releases[0])
    production.settled()
    body = {"name": "omniops", "target": "production", "gitSource": {"sha": "c" * 40}}
    made = production.caller.call("POST", "/v13/deployments", body).json()
    assert made["readyState"] == "QUEUED"

    def ready() -> Any:
        found = production.caller.get(f"/v13/deployments/{made['id']}")
        return found if found["readyState"] == "READY" else None

    assert wait_for(ready)["readySubstate"] == "STAGED"
    assert serving(production.show()) == {production.releases[0]}
    refused = production.rollback(made["id"])
    assert refused.status_code == 422
    assert production.promote(made["id"]).status_code == 201
    assert serving(production.settled()) == {made["id"]}


def test_a_build_for_production_goes_live_by_itself(production: Production) -> None:
    body = {
        "deploymentId": production.preview,
        "name": "omniops",
        "target": "production",
        "meta": {"action": "promote"},
    }
    made = production.caller.call("POST", "/v13/deployments", body).json()
    assert made["id"] != production.preview
    wait_for(lambda: serving(production.show()) == {made["id"]})
    assert production.api.effects()[-1].ids["source"] == production.preview


@pytest.mark.parametrize(
    ("target", "kind", "status", "text"),
    [
        ("broken", "rollback", 422, "not ready"),
        ("broken", "promote", 422, "not ready"),
        ("preview", "rollback", 422, "production"),
        ("preview", "promote", 422, "production"),
        ("current", "promote", 409, "already the current production deployment"),
        ("current", "rollback", 409, "already the current production deployment"),
        ("unknown", "rollback", 404, "not found"),
    ],
)
def test_refuses_what_is_not_eligible(
    production: Production, target: str, kind: str, status: int, text: str
) -> None:
    ids = {"broken": production.broken, "preview": production.preview, "unknown": "dpl_none"}
    ids["current"] = production.releases[-1]
    ask = production.rollback if kind == "rollback" else production.promote
    response = ask(ids[target])
    assert response.status_code == status
    assert text in response.json()["error"]["message"]
    assert production.api.effects() == []
    assert production.show()["lastAliasRequest"] is None


def test_hobby_reaches_only_the_previous_deployment(production: Production) -> None:
    production.caller.ask_control("PATCH", "/__settings", {"plan": "hobby"})
    refused = production.rollback(production.releases[0])
    assert refused.status_code == 402
    assert refused.json()["error"]["message"] == (
        "To roll back further than the previous production deployment, upgrade to pro"
    )
    assert production.rollback(production.releases[1]).status_code == 201


def test_one_move_at_a_time_but_a_repeated_request_is_tolerated(production: Production) -> None:
    production.caller.ask_control("PATCH", "/__settings", {"alias_delay_ms": 5000})
    assert production.rollback(production.releases[0]).status_code == 201
    assert production.rollback(production.releases[1]).status_code == 409
    assert production.promote(production.releases[0]).status_code == 409
    before = production.show()["lastAliasRequest"]
    assert production.rollback(production.releases[0]).status_code == 201
    assert production.show()["lastAliasRequest"] == before
    assert [effect["repeat"] for effect in production.caller.effects()] == [False, True]


def test_a_failed_alias_leaves_a_mixture_and_every_way_out(production: Production) -> None:
    ask, goal = production.caller, production.releases[0]
    production.api.faults.add(Fault(kind=FaultKind.ALIAS_FAILS, alias=DOMAINS[1]))
    production.rollback(goal)
    shown = production.settled()
    assert shown["lastAliasRequest"]["jobStatus"] == "failed"
    assert serving(shown) == {goal, production.releases[-1]}
    assert shown["targets"]["production"]["id"] == production.releases[-1]
    nested = ask.get(f"/v9/projects/{shown['id']}/rollback/aliases", failedOnly="true", limit=20)
    assert [item["alias"]["alias"] for item in nested["aliases"]] == [DOMAINS[1]]
    flat = ask.get(f"/v1/projects/{shown['id']}/promote/aliases")
    statuses = {item["alias"]: item["status"] for item in flat["aliases"]}
    assert statuses == dict.fromkeys(DOMAINS, "completed") | {DOMAINS[1]: "failed"}
    assert production.promote(production.releases[-1]).status_code == 201, "the way back"
    assert serving(production.settled()) == {production.releases[-1]}
    assert production.rollback(goal).status_code == 201, "and the way there"
    assert serving(production.settled()) == {goal}


def test_of_many_requests_at_once_one_takes_effect(production: Production) -> None:
    production.caller.ask_control("PATCH", "/__settings", {"alias_delay_ms": 60_000})
    path = f"{production.url}/v1/projects/omniops/rollback/"

    def send(number: int) -> int:
        goal = production.releases[number % 2]
        return httpx.post(path + goal, headers=bearer(TOKEN), trust_env=False).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(24)))
    effects = production.api.effects()
    assert [effect.seq for effect in effects] == list(range(1, 13))
    assert [effect.repeat for effect in effects].count(False) == 1
    assert statuses.count(201) == statuses.count(409) == 12


def test_forgets_connections_that_were_closed(production: Production) -> None:
    def held() -> int:
        server = production.server._server
        assert server is not None
        return len(server._open)

    for _ in range(5):
        httpx.get(f"{production.url}/v2/user", trust_env=False)
    wait_for(lambda: held() <= 1, what="closed connections to be forgotten")


def test_aliases_of_a_project_that_never_moved(production: Production) -> None:
    path = f"projects/{production.project}"
    assert production.caller.get(f"/v1/{path}/promote/aliases") == {}
    assert production.caller.get(f"/v9/{path}/rollback/aliases")["aliases"] == []
    assert production.caller.get(f"/v1/{path}/rolling-release") == {"rollingRelease": None}


def test_keeps_the_reason_of_a_rollback(production: Production) -> None:
    goal = production.releases[0]
    assert production.rollback(goal, description="x" * 251).status_code == 400
    assert production.rollback(goal, description="errors after the release").status_code == 201
    assert production.show()["rollbackDescription"]["description"] == "errors after the release"
    path = f"/v1/projects/{production.project}/rollback/{goal}/update-description"
    assert production.caller.call("PATCH", path, {"description": "better"}).status_code == 200
    assert production.show()["rollbackDescription"]["description"] == "better"
    assert production.caller.call("PATCH", path, {"description": 1}).status_code == 400


def test_a_body_has_to_be_json_and_small(production: Production) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    client = production.caller.client
    path = f"/v1/projects/{production.project}/rollback/{production.releases[0]}"
    assert client.post(path, content=b"{", headers=headers).status_code == 400
    assert client.post(path, content=b"[]", headers=headers).status_code == 400
    host = f"{client.base_url.host}:{client.base_url.port}"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {9 << 20}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as raw:
        raw.sendall(head.encode())
        assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert production.api.effects() == []


def test_listens_on_loopback_only(production: Production) -> None:
    with pytest.raises(UsageError, match="loopback"):
        ApiServer(production.api, host="0.0.0.0")


@pytest.mark.parametrize("content", ["{", "{}", '{"kind": "supabase"}'])
def test_a_foreign_state_file_is_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    initial = new_state(now=1)
    if content == "{}":
        VercelApi(token=TOKEN, path=path, initial=initial)  # everything in it may be missing
    else:
        with pytest.raises(UsageError, match="not a state file"):
            VercelApi(token=TOKEN, path=path, initial=initial)
    assert path.read_text() == content


@pytest.mark.parametrize("broken", ["state", "tokens"])
def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in ("state", "tokens", "port")}
    files[broken].write_text("[]")
    files["port"].write_text("1234")
    arguments = ("--state", files["state"], "--tokens", files["tokens"])
    done = serve.main(["vercel", *map(str, arguments), "--port-file", str(files["port"])])
    assert done == 2
    assert str(files[broken]) in capsys.readouterr().err
    assert not files["port"].exists(), "a killed server's port must not be taken for this one's"


@pytest.mark.crash
def test_a_killed_server_still_knows_and_goes_on(tmp_path: Path) -> None:
    options = ("--alias-delay-ms", "300", "--alias-step-ms", "100", "--build-ms", "0")
    served = Served("vercel", tmp_path, options)
    ask = served.start()
    ids = [
        ask.call(
            "POST",
            "/v13/deployments",
            {"name": "omniops", "target": "production", "gitSource": {"sha": sha * 40}},
        ).json()["id"]
        for sha in "12"
    ]
    assert ask.call("POST", f"/v1/projects/omniops/rollback/{ids[0]}").status_code == 201
    served.kill()
    again = served.start()
    try:
        assert again.base != ask.base or again.effects()
        routes = [effect["route"] for effect in again.effects()]
        assert routes.count("POST /v1/projects/{project}/rollback/{deployment}") == 1
        wait_for(lambda: serving(again.get("/v9/projects/omniops")) == {ids[0]})
        shown = again.get("/v9/projects/omniops")
        assert shown["targets"]["production"]["id"] == ids[0]
        assert shown["autoAssignCustomDomains"] is False
        assert served.stop() == 0
        assert not (tmp_path / "port").exists()
    finally:
        served.kill()
    assert (tmp_path / "state.json").stat().st_mode & 0o077 == 0
    assert TOKEN not in (tmp_path / "state.json").read_text()


class TestCommandLine:
    """What the vendor's own tool makes of this server."""

    pytestmark = pytest.mark.node

    @pytest.fixture
    def vercel(self, production: Production, vercel_cli: VercelCli) -> Any:
        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return vercel_cli.run(*arguments, api=production.url, token=TOKEN)

        return run

    def test_whoami(self, vercel: Any) -> None:
        done = vercel("whoami")
        assert (done.returncode, done.stdout.strip()) == (0, "operator")

    def test_list(self, vercel: Any, production: Production) -> None:
        done = vercel("list", "omniops", "--json")
        assert done.returncode == 0, done.stderr
        shown = json.loads(done.stdout)
        assert shown["contextName"] == "acme"
        assert shown["deployments"][0]["state"] == "ERROR"
        assert len(shown["deployments"]) == 5
        filtered = vercel("list", "omniops", "--prod", "--status", "READY")
        assert filtered.returncode == 0, filtered.stderr
        assert len(filtered.stdout.split()) == 3

    def test_inspect(self, vercel: Any, production: Production) -> None:
        done = vercel("inspect", DOMAINS[0], "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["id"] == production.releases[-1]
        logs = vercel("inspect", production.releases[0], "--logs")
        assert logs.returncode == 0, logs.stderr
        assert "1" * 40 in logs.stderr

    def test_rollback_and_status(self, vercel: Any, production: Production) -> None:
        done = vercel("rollback", production.releases[0])
        assert done.returncode == 0, done.stderr
        assert "Success! omniops was rolled back" in done.stderr
        assert serving(production.show()) == {production.releases[0]}
        assert len(production.api.effects()) == 1
        status = vercel("rollback", "status", "omniops")
        assert status.returncode == 0, status.stderr
        assert production.releases[0] in status.stderr

    def test_rollback_without_waiting(self, vercel: Any, production: Production) -> None:
        done = vercel("rollback", production.releases[0], "--timeout", "0")
        assert done.returncode == 0, done.stderr
        assert len(production.api.effects()) == 1

    def test_promote(self, vercel: Any, production: Production) -> None:
        production.rollback(production.releases[0])
        production.settled()
        done = vercel("promote", production.releases[1])
        assert done.returncode == 0, done.stderr
        assert serving(production.show()) == {production.releases[1]}
        again = vercel("promote", production.releases[1])
        assert again.returncode == 1
        assert "already the current production deployment. (409)" in again.stderr

    def test_promoting_a_preview_is_a_new_build(self, vercel: Any, production: Production) -> None:
        done = vercel("promote", production.preview, "--yes")
        assert done.returncode == 0, done.stderr
        (effect,) = production.api.effects()
        assert effect.route == "POST /v13/deployments"

    def test_refusals_end_with_one(self, vercel: Any, production: Production) -> None:
        done = vercel("rollback", production.broken)
        assert done.returncode == 1
        assert "(422)" in done.stderr

    def test_a_failed_alias_is_named(self, vercel: Any, production: Production) -> None:
        production.api.faults.add(Fault(kind=FaultKind.ALIAS_FAILS, alias=DOMAINS[2]))
        done = vercel("rollback", production.releases[0])
        assert done.returncode == 1
        assert DOMAINS[2] in done.stderr

    def test_a_lost_answer_is_sent_again(self, vercel: Any, production: Production) -> None:
        """Why our own tool never sends twice: the vendor's does."""
        production.caller.ask_control("PATCH", "/__settings", {"alias_delay_ms": 4000})
        production.api.faults.add(Fault(kind=FaultKind.LOST_ANSWER, method="POST"))
        done = vercel("rollback", production.releases[0])
        assert done.returncode == 0, done.stderr
        assert [effect.repeat for effect in production.api.effects()] == [False, True]
