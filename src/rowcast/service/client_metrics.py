"""What clients have measured themselves, counted for Prometheus."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["ClientMetrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TIMES = {
    "connect_ms": ("rowcast_client_connect_seconds", "From asking for a stream to its first event."),
    "catch_up_ms": ("rowcast_client_catch_up_seconds", "From the first event of a stream to `synced`."),
    "event_lag_ms": ("rowcast_client_event_lag_seconds", "From a change to the client, by the server's clock."),
}
_COUNTS = {
    "reconnects": ("rowcast_client_reconnects", "Streams that ended without being asked to."),
    "fallback": ("rowcast_client_fallbacks", "Changes from streaming to polling."),
    "gap_polls": ("rowcast_client_gap_polls", "Polls while a stream was away."),
    "duplicates": ("rowcast_client_duplicates", "States that came twice, and were recognised."),
    "stale": ("rowcast_client_stale", "States that were older than what was known, and were ignored."),
    "skipped": ("rowcast_client_skipped", "Events that made no sense."),
}
_REASONS = frozenset({
    "drain", "max_age", "token_expired", "revoked", "slow_consumer", "switched_off", "session_closed",
    "broken", "busy", "failed", "mute", "not_a_stream", "not_understood", "offline", "unauthorized", "unreachable",
    "silent", "woke", "short_lives", "no_streams", "config",
})  # fmt: skip


class ClientMetrics:
    """Counts for one process. Labels come from a fixed choice, so that no client can make new series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._times = {
            name: Histogram(metric, text, ["transport"], buckets=_SECONDS, registry=registry)
            for name, (metric, text) in _TIMES.items()
        }
        self._counts = {
            name: Counter(metric, text, ["transport", "reason"], registry=registry)
            for name, (metric, text) in _COUNTS.items()
        }
        self._unknown = Counter(
            "rowcast_client_unknown_metrics", "Metrics of newer clients, which were ignored.", registry=registry
        )

    def take(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Take in one measurement: milliseconds, or a count of at most a million."""
        transport = labels.get("transport", "")
        transport = transport if transport in ("sse", "poll") else "other"
        reason = labels.get("reason", "")
        if name in self._times:
            self._times[name].labels(transport).observe(value / 1000)
        elif name in self._counts:
            reason = reason if not reason or reason in _REASONS else "other"
            self._counts[name].labels(transport, reason).inc(min(value, 1_000_000))
        else:
            self._unknown.inc()
