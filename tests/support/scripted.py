"""A server that answers as scripted, and the words of its answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

ROW = {"request_id": "r", "session_id": "s", "status": "pending", "updated_at": 1.0, "terminal": False}
STAY = "\0"
"""At the end of an answer: leave the connection open."""

CONNECTED = {"session_id": "s", "timestamp": 1, "epoch": "e", "heartbeat_ms": 1000, "mode": "resume"}


def event(name: str, data: object, cursor: str = "") -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {name}\n" + (f"id: {cursor}\n" if cursor else "") + f"data: {text}\n\n"


def stream(*events: str) -> str:
    hello = event("connected", CONNECTED)
    return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + hello + "".join(events)


def answer(status: str, body: object = "", **headers: str) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n{lines}\r\n{text}"


def page(*rows: object, cursor: str = "c") -> dict[str, object]:
    body: dict[str, object] = {"epoch": "e", "cursor": cursor, "mode": "full", "requests": list(rows), "removed": []}
    return {**body, "poll": {"interval_ms": 1000, "max_wait_s": 25}}


@asynccontextmanager
async def peer(streams: list[str], polls: list[str] | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers as scripted, the last answer again and again; give its address and what was asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):  # the client may leave at any moment
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head)
            script = streams if "/api/sse/" in head.split("\r\n", 1)[0] else (polls or [answer("404 Not Found")])
            text, stay, _ = (script.pop(0) if len(script) > 1 else script[0]).partition(STAY)
            writer.write(text.encode())
            await writer.drain()
            if stay:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
