"""What a status may become: the database and the table for Python say the same."""

from itertools import product
from uuid import UUID

import asyncpg
import pytest

from lab import Lab
from rowcast.service.store.law import RETRIES, STATUSES, TERMINAL, TRANSITIONS

pytestmark = pytest.mark.anyio

PAIRS = list(product(STATUSES, repeat=2))


@pytest.fixture
async def session(service: Lab) -> UUID:
    return UUID(str(await service.value("INSERT INTO session (user_owner) VALUES ('test|1') RETURNING session_id")))


async def test_the_statuses_are_the_same(service: Lab) -> None:
    assert tuple(await service.value("SELECT enum_range(NULL::request_status)::text[]")) == STATUSES


@pytest.mark.parametrize("retry", [None, "off", "on"])
async def test_all_16_pairs(service: Lab, session: UUID, retry: str | None) -> None:
    assert len(PAIRS) == 16
    for old, new in PAIRS:
        key = await service.add(session_id=session, request="?", status=old)
        allowed = old == new or (old, new) in TRANSITIONS or (retry == "on" and (old, new) in RETRIES)
        transaction = service.main.transaction()
        await transaction.start()
        if retry is not None:
            await service.execute(f"SET LOCAL rowcast.retry = '{retry}'")
        if allowed:
            await service.set(key, "status = $2", new)
            await transaction.commit()
        else:
            with pytest.raises(asyncpg.PostgresError, match=f"from {old} to {new}") as refusal:
                await service.set(key, "status = $2", new)
            assert refusal.value.sqlstate == "RC001"
            assert ("rowcast.retry" in refusal.value.hint) == (old in TERMINAL)
            await transaction.rollback()
        assert (await service.row(key))["status"] == (new if allowed else old)


async def test_leave_to_retry_ends_with_its_transaction(service: Lab, session: UUID) -> None:
    key = await service.add(session_id=session, request="?", status="done")
    async with service.main.transaction():
        await service.execute("SET LOCAL rowcast.retry = 'on'")
    with pytest.raises(asyncpg.PostgresError) as refusal:
        await service.set(key, "status = 'pending'")
    assert refusal.value.sqlstate == "RC001"


async def test_terminal_is_what_the_law_ends_in_and_what_the_trigger_calls_so(service: Lab, session: UUID) -> None:
    assert {old for old, _ in TRANSITIONS}.isdisjoint(TERMINAL)
    assert {old for old, _ in RETRIES} == set(TERMINAL)
    ear = await service.listen()
    for status in STATUSES:
        await service.add(session_id=session, request="?", status=status)
    assert {told["status"]: told["terminal"] for told in await ear.heard()} == {
        status: status in TERMINAL for status in STATUSES
    }
