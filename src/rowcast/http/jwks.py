"""The public keys of an issuer, fetched over HTTPS and kept for a while.

The fetch runs in a thread of its own, not in a loop's executor: a fetch belongs to no loop, so that several loops can
wait for the same one, and whoever stops waiting does not stop it.
"""

import asyncio
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from urllib.parse import urlsplit

from rowcast.http.keys import VerificationKey
from rowcast.http.tokens import refuse

__all__ = ["MAX_DOCUMENT_BYTES", "MAX_KEYS", "Fetch", "JwksCache", "fetch_document"]

log = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES = 256 * 1024
MAX_KEYS = 64

Fetch = Callable[[str], bytes]
"""Blocking: takes a URL, returns the document, raises anything on failure. Runs in a thread."""


class JwksCache:
    """The signature keys found at one URL.

    Keys are believed for `cache_seconds`, and up to `stale_seconds` while the issuer does not answer. A token with an
    unknown key makes us look again, at most once in `cooldown_seconds` whatever callers send. While there is no key at
    all nobody gets in, so that we look again after `retry_seconds`. Callers wait for the issuer at most
    `timeout_seconds`, and one fetch serves all that wait. Safe to share between threads and event loops.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.time,
        fetch: Fetch | None = None,
        cache_seconds: float = 600,
        stale_seconds: float = 86_400,
        cooldown_seconds: float = 30,
        retry_seconds: float = 5,
        timeout_seconds: float = 5,
    ) -> None:
        self._url = url
        self._clock = clock
        self._fetch: Fetch = fetch or (lambda url: fetch_document(url, timeout_seconds=timeout_seconds))
        self._cache_seconds = cache_seconds
        self._stale_seconds = stale_seconds
        self._cooldown_seconds = cooldown_seconds
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()  # guards all below; never held while waiting
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetched_at: float | None = None
        self._attempted_at: float | None = None
        self._flight: Future[None] | None = None

    async def key(self, kid: str | None, *, algorithm: str) -> VerificationKey:
        """Return the key named `kid` that is for `algorithm`, or raise `Unauthorized`.

        A token may leave `kid` out if the issuer has only one key for its algorithm.
        """
        key = self._find(kid, algorithm, within_seconds=self._cache_seconds)
        if key is None:
            flight = self._take_off()
            if flight is not None:
                await self._landing(flight)
            key = self._find(kid, algorithm, within_seconds=self._stale_seconds)
        if key is None:
            refuse("no such key at its issuer")
        return key

    def _find(self, kid: str | None, algorithm: str, *, within_seconds: float) -> VerificationKey | None:
        with self._lock:
            keys = self._keys if _is_recent(self._fetched_at, self._clock(), within_seconds) else ()
        fitting = [key for key in keys if algorithm in key.algorithms and kid in {None, key.kid}]
        if kid is None and len(fitting) > 1:
            return None
        return fitting[0] if fitting else None

    def _take_off(self) -> Future[None] | None:
        """Start a fetch, or join the one under way; None while cooling down."""
        with self._lock:
            if self._flight is None:
                now = self._clock()
                known = _is_recent(self._fetched_at, now, self._stale_seconds)
                if _is_recent(self._attempted_at, now, self._cooldown_seconds if known else self._retry_seconds):
                    return None
                flight: Future[None] = Future()
                flight.set_running_or_notify_cancel()  # from here on no waiter can cancel it
                threading.Thread(target=self._fly, args=(flight,), name="rowcast-jwks", daemon=True).start()
                self._attempted_at, self._flight = now, flight
            return self._flight

    def _fly(self, flight: Future[None]) -> None:
        keys: tuple[VerificationKey, ...] = ()
        try:
            keys = _read_keys(self._fetch(self._url))
        except Exception as failure:  # whatever went wrong, the flight must land
            log.warning("JWKS fetch failed: url=%s error=%r", self._url, failure)
        finally:
            with self._lock:
                if keys:
                    self._keys, self._fetched_at = keys, self._clock()
                self._flight = None
            flight.set_result(None)

    async def _landing(self, flight: Future[None]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_seconds):
                await asyncio.wrap_future(flight)


def fetch_document(url: str, *, timeout_seconds: float = 5) -> bytes:
    """Fetch a small document. No redirects, no proxies, 200 or `OSError`; at most `MAX_DOCUMENT_BYTES`.

    Blocks for `timeout_seconds` to connect and as long again for the answer, however slowly it drips.
    """
    parts = urlsplit(url)
    scheme = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = scheme(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.connect()
        hang_up = threading.Timer(timeout_seconds, _hang_up, [connection.sock])
        hang_up.daemon = True
        hang_up.start()
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept": "application/json", "User-Agent": "rowcast"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise OSError(f"status {response.status}")
            document = response.read(MAX_DOCUMENT_BYTES + 1)
        finally:
            hang_up.cancel()
    finally:
        connection.close()
    if len(document) > MAX_DOCUMENT_BYTES:
        raise OSError(f"more than {MAX_DOCUMENT_BYTES} bytes")
    return document


def _hang_up(connected: socket.socket) -> None:
    with suppress(OSError):
        # Past TLS, straight to the socket: the blocked reader sees the end of the stream.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _read_keys(document: bytes) -> tuple[VerificationKey, ...]:
    body = json.loads(document)
    entries = body.get("keys") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JSON Web Key Set")
    keys = tuple(key for entry in entries[:MAX_KEYS] if (key := VerificationKey.from_jwk(entry)))
    if not keys:
        raise ValueError("no signature key that can be used")
    return keys


def _is_recent(instant: float | None, now: float, within_seconds: float) -> bool:
    # A clock that was set back makes nothing recent for ever.
    return instant is not None and 0 <= now - instant < within_seconds
