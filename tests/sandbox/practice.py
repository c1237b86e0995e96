"""A caller of the practice APIs that checks every answer against our excerpt of the schemas."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
from jsonschema import Draft202012Validator

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from types import TracebackType

    from reconciler.sandbox.server import ApiServer

SCHEMAS = Path(__file__).parent / "openapi"
TOKEN = "practice_token_1"
CONTROL = "control_token_1"
ROOT = Path(__file__).resolve().parents[2]


class Contract:
    """What answers of one vendor must look like."""

    def __init__(self, vendor: str) -> None:
        self.document: dict[str, Any] = json.loads((SCHEMAS / f"{vendor}.json").read_text())

    def check(self, response: httpx.Response) -> None:
        request = response.request
        for name in self.document.get("headers", ()):
            assert response.headers[name].isdecimal(), name
        schema: str | None = self.document["errors"]
        if response.status_code < 400:
            schema = self._schema(request.method, request.url.path, response.status_code)
        if schema is None:
            assert response.content == b""
            assert "content-type" not in response.headers
            return
        assert response.headers["content-type"].startswith("application/json")
        reference = {"$ref": f"#/$defs/{schema}", "$defs": self.document["$defs"]}
        Draft202012Validator(reference).validate(response.json())

    def _schema(self, method: str, path: str, status: int) -> str | None:
        for known, pattern, answers in self.document["routes"]:
            if known == method and re.fullmatch(pattern, path):
                named: str | None = answers[str(status)]
                return named
        raise AssertionError(f"{method} {path} is not in the excerpt")


@dataclass
class Caller:
    """An HTTP client of one practice server; each answer is checked."""

    base: str
    vendor: str
    token: str = TOKEN
    control: str = CONTROL
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.contract = Contract(self.vendor)
        self.client = httpx.Client(base_url=self.base, timeout=20, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()

    def call(self, method: str, path: str, body: object = None, **options: Any) -> httpx.Response:
        headers = {**bearer(self.token), **options.pop("headers", {})}
        response = self.client.request(method, path, json=body, headers=headers, **options)
        if not path.startswith("/__"):
            self.contract.check(response)
        return response

    def get(self, path: str, **params: Any) -> Any:
        response = self.call("GET", path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    def ask_control(self, method: str, path: str, body: object = None) -> Any:
        headers = bearer(self.control)
        response = self.client.request(method, path, json=body, headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    def effects(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask_control("GET", "/__effects")["effects"]
        return found

    def fault(self, kind: str, **fields: Any) -> None:
        self.ask_control("POST", "/__faults", {"faults": [{"kind": kind, **fields}]})


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def caller(server: ApiServer, vendor: str) -> Caller:
    return Caller(server.url, vendor, control=server.control_token)


@dataclass
class Served:
    """A practice server in a process of its own, to be killed and started again."""

    vendor: str
    folder: Path
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    callers: list[Caller] = field(default_factory=list)

    def start(self) -> Caller:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        tokens = self.folder / "tokens.json"
        if not tokens.exists():
            tokens.write_text(json.dumps({"token": TOKEN, "control": CONTROL}))
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "reconciler.sandbox.serve", self.vendor),
                *("--state", str(self.folder / "state.json"), "--tokens", str(tokens)),
                *("--port-file", str(port_file), *self.options),
            ],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **self.env},
        )
        process = self.process
        wait_for(lambda: port_file.exists() or process.poll() is not None, what="port file")
        assert process.poll() is None, "the server ended"
        made = Caller(f"http://127.0.0.1:{port_file.read_text().strip()}", self.vendor)
        self.callers.append(made)
        return made

    def kill(self) -> None:
        assert self.process is not None
        while self.callers:
            self.callers.pop().client.close()
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=10)
