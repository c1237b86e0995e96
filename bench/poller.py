"""Asks a URL again and again, in a process of its own, and writes down when each answer came.

    python -S bench/poller.py HOST PORT PATH OUTPUT

A new connection for each question, one question every 10 ms, 250 ms for an answer; whatever speaks
HTTP counts as up. Each answer is one line of OUTPUT: seconds of the monotonic clock. Needs the
standard library's sockets only: it shares two cores with what it watches.
"""

from __future__ import annotations

import socket
import sys
import time

INTERVAL = 0.01
PATIENCE = 0.25


def answers(host: str, port: int, path: str) -> bool:
    """Whether anything that speaks HTTP answers."""
    request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection((host, port), PATIENCE) as connection:
            connection.sendall(request)
            return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


def poll(host: str, port: int, path: str, output: str) -> None:
    """Asks until the process is ended."""
    with open(output, "w", buffering=1, encoding="ascii") as lines:  # noqa: PTH123 - pathlib is slow to load
        due = time.monotonic()
        while True:
            if answers(host, port, path):
                lines.write(f"{time.monotonic():.6f}\n")
            due = max(due + INTERVAL, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    poll(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
