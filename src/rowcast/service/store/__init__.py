"""The service's tables, as Python sees them: plain SQL in files, one class a table."""

from rowcast.service.store.queries import Queries
from rowcast.service.store.requests import Requests
from rowcast.service.store.sessions import Sessions
from rowcast.service.store.watched import REQUESTS

__all__ = ["REQUESTS", "Queries", "Requests", "Sessions"]
