"""Metrics for Prometheus; needs `prometheus-client`, which comes with `rowcast[server]`."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "PrometheusMetrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_STREAM_SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200)
_SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class PrometheusMetrics:
    """Counts for one process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = registry or CollectorRegistry()
        self._streams = Gauge("rowcast_streams", "Open streams.", registry=registry)
        self._ages = Histogram(
            "rowcast_stream_seconds", "How long streams lasted, by why they ended.", ["reason"],
            buckets=_STREAM_SECONDS, registry=registry,
        )  # fmt: skip
        self._refused = Counter("rowcast_refused", "Requests that were refused, by code.", ["code"], registry=registry)
        self._notifications = Counter(
            "rowcast_notifications", "Notifications heard, by what became of them.", ["outcome"], registry=registry
        )
        self._frames = Counter("rowcast_frames", "Frames written to streams.", registry=registry)
        self._reads = Histogram(
            "rowcast_read_seconds", "Reads of the watched table.", ["kind"], buckets=_SHORT_SECONDS, registry=registry
        )
        self._rows = Counter("rowcast_read_rows", "Rows read from the watched table.", ["kind"], registry=registry)
        self._polls = Histogram(
            "rowcast_poll_seconds", "Polls, by outcome; a held poll counts as long as it was held.", ["outcome"],
            buckets=_SHORT_SECONDS, registry=registry,
        )  # fmt: skip
        self._resyncs = Counter("rowcast_resyncs", "Full snapshots that were forced.", ["reason"], registry=registry)
        self._listener = Gauge("rowcast_listener_up", "1 while the database is listened to.", registry=registry)
        self._probes = Histogram(
            "rowcast_probe_seconds", "Round trips through the notification queue.", buckets=_SHORT_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._found = Counter(
            "rowcast_sweep_found", "Changes that only the sweep found; should stay at 0.", registry=registry
        )

    def render(self) -> bytes:
        """Return everything in the text format."""
        return generate_latest(self._registry)

    def stream_opened(self) -> None:
        """Count a stream."""
        self._streams.inc()

    def stream_closed(self, reason: str, seconds: float) -> None:
        """Count the end of a stream."""
        self._streams.dec()
        self._ages.labels(reason).observe(seconds)

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refused.labels(code).inc()

    def notification(self, outcome: str) -> None:
        """Count a notification."""
        self._notifications.labels(outcome).inc()

    def frames_sent(self, frames: int) -> None:
        """Count frames."""
        self._frames.inc(frames)

    def read(self, kind: str, rows: int, seconds: float) -> None:
        """Count a read of the watched table."""
        self._reads.labels(kind).observe(seconds)
        self._rows.labels(kind).inc(rows)

    def polled(self, outcome: str, seconds: float) -> None:
        """Count a poll."""
        self._polls.labels(outcome).observe(seconds)

    def resynced(self, reason: str) -> None:
        """Count a full snapshot that a client did not ask for."""
        self._resyncs.labels(reason).inc()

    def listener_up(self, up: bool) -> None:
        """Note whether the database is listened to."""
        self._listener.set(up)

    def probed(self, seconds: float) -> None:
        """Note a round trip."""
        self._probes.observe(seconds)

    def sweep_found(self, rows: int) -> None:
        """Count what should not have been missed."""
        self._found.inc(rows)
