"""The HTTP API of the service: one module a resource."""

from rowcast.service.api.auth import router as auth
from rowcast.service.api.client_metrics import router as client_metrics
from rowcast.service.api.config import router as config
from rowcast.service.api.health import router as health
from rowcast.service.api.queries import router as queries
from rowcast.service.api.requests import router as requests
from rowcast.service.api.sessions import router as sessions

__all__ = ["auth", "client_metrics", "config", "health", "queries", "requests", "sessions"]
