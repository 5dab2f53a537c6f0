"""A session with an owner, and steps that any worker could take."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from database import execute, value
from wire import check


@dataclass
class Room:
    """One owner's session on one server, reached over HTTP by its owner and over SQL by whoever works."""

    client: httpx2.Client
    database_url: str
    session_id: str

    @property
    def stream(self) -> str:
        return f"/api/sse/{self.session_id}"

    @property
    def poll(self) -> str:
        return f"/api/session/{self.session_id}/requests"

    def ask(self, text: str = "sales_by_month") -> dict[str, Any]:
        response = self.client.post(f"/api/request/{self.session_id}", json={"request": text})
        assert response.status_code == 201, response.text
        created: dict[str, Any] = check("RequestCreated", response.json())
        return created

    def begin(self, request_id: str) -> None:
        execute(self.database_url, "UPDATE request SET status = 'in_progress' WHERE request_id = $1", request_id)

    def finish(self, request_id: str, *, response: str | None = "42", error: str | None = None) -> None:
        """Take a request to its end, by whatever steps that takes."""
        if value(self.database_url, "SELECT status::text FROM request WHERE request_id = $1", request_id) == "pending":
            self.begin(request_id)
        status = "done" if error is None else "error"
        execute(
            self.database_url,
            "UPDATE request SET status = $2::text::request_status, response = $3, error = $4 WHERE request_id = $1",
            request_id, status, response if error is None else None, error,
        )  # fmt: skip


@pytest.fixture(scope="module")
def shared(start_shared_server: Callable[..., Any]) -> Any:
    """The server of a module, with short heartbeats."""
    return start_shared_server(ROWCAST_HEARTBEAT_MS=1000)


@pytest.fixture
def open_room() -> Iterator[Callable[..., Room]]:
    """Return what opens a session of a new guest (or of `token`) on a server."""
    clients: list[httpx2.Client] = []

    def open_on(server: Any, token: str | None = None) -> Room:
        client = server.client(token)
        clients.append(client)
        response = client.post("/api/session", json={"name": "a room"})
        assert response.status_code == 201, response.text
        return Room(client, server.database_url, check("SessionBody", response.json())["session_id"])

    yield open_on
    for client in clients:
        client.close()


@pytest.fixture
def room(shared: Any, open_room: Callable[..., Room]) -> Room:
    """A new guest's session on the server of the module."""
    return open_room(shared)


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[Any]]]:
    """Return what runs a call in a thread; its future is what the test waits for."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


@pytest.fixture
def wait_for_fact() -> Callable[[Callable[[], object]], None]:
    """Return what waits until something is true."""

    def wait(is_true: Callable[[], object], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"waited {seconds} s in vain"
            time.sleep(0.01)

    return wait


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
