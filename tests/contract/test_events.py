"""Every event that the library can make for the service fits its published schema, the rare ones too."""

from typing import Any, get_args
from uuid import uuid4

import pytest

from rowcast import Cursor, RowState, event
from rowcast.service.api.events import EVENTS, Goodbye
from rowcast.service.store import REQUESTS
from rowcast.sse import encode
from wire import Frame, check_frame, parse_frame

HERE = Cursor("0123456789abcdef", 7)
SESSION = str(uuid4())


def state(*, removed: bool = False) -> RowState:
    document: dict[str, Any] = {"request_id": str(uuid4()), "session_id": SESSION, "version": 1}
    if not removed:
        document |= {"status": "a state of next year", "updated_at": 1.5, "has_response": True, "has_error": False}
        document |= {"sequence_number": 1, "terminal": False}
    return RowState.from_document(REQUESTS, document, removed=removed)


MADE = [
    *(
        event.connected(REQUESTS, SESSION, stream_id="x", epoch=HERE.epoch, heartbeat_ms=5000, mode=mode, now=1.23456)
        for mode in get_args(event.Mode)
    ),
    *event.snapshot(REQUESTS, SESSION, [state() for _ in range(401)], HERE),
    *event.snapshot(REQUESTS, SESSION, [], HERE),
    event.row_changed(REQUESTS, state(), HERE, "live"),
    event.row_changed(REQUESTS, state(removed=True), HERE, "catchup"),
    event.synced(SESSION, HERE, 1.5),
    event.heartbeat(SESSION, HERE, 1.5),
    event.heartbeat(SESSION, None, 1.5),
    *(event.resync(reason) for reason in get_args(event.ResyncReason)),
    event.degraded(1.5),
    event.token_expiring(1.5, 0.5),
    *(event.goodbye(reason, resume=True, retry_ms=5) for reason in get_args(Goodbye.model_fields["reason"].annotation)),
    event.goodbye("switched_off", resume=True, retry_ms=5, transport="poll"),
    event.failed(REQUESTS, SESSION),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)
def test_fits_its_schema(made: event.Event) -> None:
    frame: Frame = check_frame(parse_frame(encode(made).removesuffix(b"\n\n")))
    assert frame.event == made.name
    assert frame.data == made.data


def test_every_event_is_described() -> None:
    assert {made.name for made in MADE} <= set(EVENTS)
