"""Puts a practice API on a loopback port: threads, keep-alive, body limit, pause, clean stop.

Called by `serve` (a process of its own), by `reconciler sandbox` and by tests (in process).
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, unquote, urlsplit

from reconciler.core.errors import UsageError
from reconciler.sandbox.http import BAD_REQUEST, TOO_LARGE, Api, Control, Request, Response

if TYPE_CHECKING:
    from types import TracebackType

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of request body that are accepted."""
IDLE_SECONDS = 60.0
POLL_SECONDS = 0.05
_LENGTH_REQUIRED = 411


class ApiServer:
    """One API on one loopback port.

    Args:
        api: What is served.
        host: A loopback address.
        port: 0 lets the system choose; see `port` after `start`.
        control_token: Token of the control routes; a fresh one when None.

    Raises:
        UsageError: The host is not a loopback address.
    """

    def __init__(
        self,
        api: Api,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        control_token: str | None = None,
    ) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise UsageError(f"A practice server listens on loopback only, not on {host}.")
        self.api = api
        self.control_token = control_token or secrets.token_hex(16)
        self.control = Control(api, self.control_token, self._pause_later)
        self._host, self._port = host, port
        self._lock = threading.RLock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._parked: socket.socket | None = None
        self._timer: threading.Timer | None = None

    @property
    def port(self) -> int:
        """The port, known once the server was started."""
        return self._port

    @property
    def url(self) -> str:
        """Base URL without a final slash."""
        return f"http://{self._host}:{self._port}"

    def start(self) -> Self:
        """Listen and serve in a background thread.

        Raises:
            UsageError: The port is taken.
        """
        with self._lock:
            self._serve(self._bind())
        return self

    def pause(self, milliseconds: int | None = None) -> None:
        """Refuse connections, and drop the open ones, while the port stays ours; returns when that is so.

        Args:
            milliseconds: Resume by itself after this time; None waits for `resume`.
        """
        with self._lock:
            if self._server is None:
                return
            self._server.let_answers_leave()
            self._halt()
            # Bound but not listening: the kernel refuses, and nobody else can take the port.
            self._parked = self._bind()
            if milliseconds is not None:
                self._timer = threading.Timer(milliseconds / 1000, self.resume)
                self._timer.daemon = True
                self._timer.start()

    def resume(self) -> None:
        """Accept connections again."""
        with self._lock:
            if self._parked is not None:
                parked, self._parked = self._parked, None
                self._serve(parked)

    def stop(self) -> None:
        """Stop serving; requests under way lose their connection. Safe to call twice."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._halt()
            if self._parked is not None:
                self._parked.close()
                self._parked = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _pause_later(self, milliseconds: int | None) -> None:
        """Pause at the wish of a request, which this server is serving and whose answer has to leave first."""
        threading.Thread(target=self.pause, args=(milliseconds,), daemon=True).start()

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self._host, self._port))
        except OSError as exc:
            bound.close()
            raise UsageError(f"Port {self._port} on {self._host} cannot be used: {exc}.") from exc
        self._port = int(bound.getsockname()[1])
        return bound

    def _serve(self, bound: socket.socket) -> None:
        self._server = _Server(self, bound)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True
        )
        self._thread.start()

    def _halt(self) -> None:
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.server_close()
            server.drop_connections()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, owner: ApiServer, bound: socket.socket) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._busy = 0
        self._changed = threading.Condition()
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_activate()

    def opened(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.discard(connection)

    def busy(self, step: int) -> None:
        with self._changed:
            self._busy += step
            self._changed.notify_all()

    def let_answers_leave(self) -> None:
        """Wait (one second at most) until no answer is half written."""
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0, timeout=1.0)

    def drop_connections(self) -> None:
        with self._changed:
            for connection in self._open:
                _shut(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore callers that went away; `Api` has already reported what is our fault."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "sandbox"
    sys_version = ""
    timeout = IDLE_SECONDS
    # One segment for head and body: two small writes would wait for the peer's delayed ACK.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def serve(self) -> None:
        self.server.busy(+1)
        try:
            self._serve()
            self.wfile.flush()
        finally:
            self.server.busy(-1)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = serve  # noqa: N815

    def _serve(self) -> None:
        owner = self.server.owner
        refusal, body = self._read_body()
        if refusal is not None:
            self.close_connection = True
            self._send(owner.api.error(*refusal))
            return
        request = self._request(body)
        if Control.serves(request.path):
            self._send(owner.control.answer(request))
            return
        response = owner.api.answer(request)
        if response is None:
            self.close_connection = True
            _shut(self.connection)
            return
        self._send(response)

    def _read_body(self) -> tuple[tuple[int, str, str] | None, bytes]:
        if self.headers.get("Transfer-Encoding"):
            return (_LENGTH_REQUIRED, "Send a Content-Length", "bad_request"), b""
        text = self.headers.get("Content-Length") or "0"
        if not text.isdecimal():
            return (BAD_REQUEST, "Content-Length is not a number", "bad_request"), b""
        if int(text) > BODY_LIMIT:
            return (TOO_LARGE, f"A body has {BODY_LIMIT} bytes at most", "bad_request"), b""
        return None, self.rfile.read(int(text))

    def _request(self, body: bytes) -> Request:
        parts = urlsplit(self.path)
        return Request(
            method=self.command,
            path=unquote(parts.path),
            query=parse_qs(parts.query, keep_blank_values=True),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
        )

    def _send(self, response: Response) -> None:
        body, content_type = response.content()
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: requests carry tokens, and effects are logged in the state file."""


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster
