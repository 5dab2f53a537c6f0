"""HTTP: streams, polls, tickets and authentication, mountable in any Starlette or FastAPI application."""

from rowcast.http.admission import Admission
from rowcast.http.auth import Authenticator, GuestTokens, Issuer, Principal, guest_cookie, needs_secure_cookie
from rowcast.http.errors import STATUS, VARY, problem, refusal, trace_id_of
from rowcast.http.keys import SigningKey
from rowcast.http.lifetime import StreamSettings
from rowcast.http.limits import BodyLimit, SafeHeaders
from rowcast.http.origin import cors_options, is_loopback
from rowcast.http.poll import PollSettings, answer, etag_of, hold, is_unchanged, wait_of
from rowcast.http.router import Authorize, live_routes
from rowcast.http.tickets import Ticket, Tickets

__all__ = [
    "STATUS",
    "VARY",
    "Admission",
    "Authenticator",
    "Authorize",
    "BodyLimit",
    "GuestTokens",
    "Issuer",
    "PollSettings",
    "Principal",
    "SafeHeaders",
    "SigningKey",
    "StreamSettings",
    "Ticket",
    "Tickets",
    "answer",
    "cors_options",
    "etag_of",
    "guest_cookie",
    "hold",
    "is_loopback",
    "is_unchanged",
    "live_routes",
    "needs_secure_cookie",
    "problem",
    "refusal",
    "trace_id_of",
    "wait_of",
]
