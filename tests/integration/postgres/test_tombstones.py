"""A row that goes leaves word for the session it goes from, below the version it would return with."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from lab import Lab

pytestmark = [pytest.mark.anyio, pytest.mark.fault(65)]


def told(events: list[dict[str, Any]]) -> list[tuple[str, str, int, bool]]:
    return [(event["id"], event["owner"], event["version"], event.get("removed", False)) for event in events]


async def test_a_deleted_row_leaves_a_tombstone_one_above_its_version(jobs: Lab) -> None:
    key, ear = await jobs.add(), await jobs.listen()
    row = await jobs.row(key)
    owner, version = str(row["owner"]), row["rowcast_version"]
    async with jobs.main.transaction():
        await jobs.execute("DELETE FROM job WHERE id = $1", key)
        xid = await jobs.value("SELECT pg_current_xact_id()")
    assert told(await ear.heard()) == [(str(key), owner, version + 1, True)]
    assert await jobs.tombstones(key) == {owner: version + 1}
    assert await jobs.value("SELECT xid FROM rowcast.tombstone WHERE key = $1", str(key)) == xid


async def test_a_row_that_changes_its_session_is_gone_from_the_old_one_and_there_in_the_new_one(jobs: Lab) -> None:
    old, new = uuid4(), uuid4()
    key, ear = await jobs.add(owner=old), await jobs.listen()
    version = await jobs.version(key)
    await jobs.set(key, "owner = $2", new)
    assert told(await ear.heard()) == [
        (str(key), str(old), version + 1, True),
        (str(key), str(new), version + 1, False),
    ]
    assert await jobs.tombstones(key) == {str(old): version + 1}


async def test_a_row_that_comes_back_to_its_session_is_newer_than_its_tombstone_there(jobs: Lab) -> None:
    old, new = uuid4(), uuid4()
    key, ear = await jobs.add(owner=old), await jobs.listen()
    version = await jobs.version(key)
    for owner in (new, old, new, old):
        await jobs.set(key, "owner = $2", owner)
    assert await jobs.version(key) == version + 4 > (await jobs.tombstones(key))[str(old)]
    last = {event[1]: event for event in told(await ear.heard())}
    assert last[str(old)] == (str(key), str(old), version + 4, False)
    assert last[str(new)] == (str(key), str(new), version + 4, True)


async def test_a_changed_key_is_one_row_gone_and_another_there(jobs: Lab) -> None:
    key, ear = await jobs.add(), await jobs.listen()
    row, other = await jobs.row(key), uuid4()
    owner, version = str(row["owner"]), row["rowcast_version"]
    await jobs.set(key, "id = $2", other)
    assert told(await ear.heard()) == [(str(key), owner, version + 1, True), (str(other), owner, version + 1, False)]
    await jobs.set(other, "id = $2", key)
    assert told(await ear.heard()) == [(str(other), owner, version + 2, True), (str(key), owner, version + 2, False)]


async def test_a_row_that_takes_the_key_of_another_that_is_gone_is_newer_than_that_one(jobs: Lab) -> None:
    ahead = 2**53 - 1_000_000_000
    gone, key = await jobs.add(rowcast_version=ahead), await jobs.add()
    version = await jobs.version(gone)
    await jobs.execute("DELETE FROM job WHERE id = $1", gone)
    await jobs.set(key, "id = $2", gone)
    assert await jobs.version(gone) > version + 1


async def test_there_is_one_tombstone_for_a_key_and_session_however_often_it_goes(jobs: Lab) -> None:
    key, owner = uuid4(), uuid4()
    versions = []
    for _ in range(5):
        await jobs.add(id=key, owner=owner)
        await jobs.execute("DELETE FROM job WHERE id = $1", key)
        versions.append((await jobs.tombstones(key))[str(owner)])
    assert versions == sorted(set(versions))
    assert len(await jobs.tombstones(key)) == 1


async def test_deleted_and_returned_in_one_transaction_is_there(jobs: Lab) -> None:
    key, ear = await jobs.add(), await jobs.listen()
    owner = (await jobs.row(key))["owner"]
    async with jobs.main.transaction():
        await jobs.execute("DELETE FROM job WHERE id = $1", key)
        await jobs.add(id=key, owner=owner)
    newest = max(told(await ear.heard()), key=lambda event: event[2])
    assert newest == (str(key), str(owner), await jobs.version(key), False)


async def test_a_delete_that_is_rolled_back_leaves_no_tombstone(jobs: Lab) -> None:
    key = await jobs.add()
    transaction = jobs.main.transaction()
    await transaction.start()
    await jobs.execute("DELETE FROM job WHERE id = $1", key)
    await transaction.rollback()
    assert await jobs.tombstones(key) == {}


async def test_a_session_that_is_deleted_takes_leave_of_all_its_requests(service: Lab, session: UUID) -> None:
    keys = [await service.add(session_id=session, request="?") for _ in range(3)]
    ear = await service.listen()
    await service.execute("DELETE FROM session WHERE session_id = $1", session)
    heard = await ear.heard()
    assert {event["request_id"] for event in heard} == {str(key) for key in keys}
    assert all(event["removed"] and event["session_id"] == str(session) for event in heard)


async def test_10_000_rows_deleted_at_once_leave_10_000_tombstones(jobs: Lab) -> None:
    owner = uuid4()
    await jobs.main.copy_records_to_table("job", records=[(owner,)] * 10_000, columns=["owner"])
    ear = await jobs.listen()
    await jobs.execute("DELETE FROM job WHERE owner = $1", owner)
    left = "SELECT count(*) FROM rowcast.tombstone WHERE watch = 'job' AND session_id = $1"
    assert await jobs.value(left, str(owner)) == len(await ear.raw()) == 10_000
