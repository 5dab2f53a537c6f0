"""Without its triggers a change is no change: that is noticed, said, and made good when they are back."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from crowd import Crowd, Gather, readiness, until_ready
from rowcast.postgres.embedded import EmbeddedPostgres
from schema import FIRST, NOTIFY, downgrade, upgrade

pytestmark = pytest.mark.anyio

TRIGGER = "request_status_update_trigger"
STAMPS = ("~rowcast_request_2_stamp", "~rowcast_request_3_stamp_wide", "~rowcast_request_4_stamp_insert")
ALL = (*STAMPS, TRIGGER, f"{TRIGGER}_insert", f"{TRIGGER}_delete")
DEFINITIONS = "SELECT pg_get_triggerdef(oid) AS definition FROM pg_trigger WHERE tgname = ANY ($1)"


async def change_everything(crowd: Crowd) -> None:
    """Change, add and delete in every session, as nobody can be told."""
    for session in crowd.sessions:
        requests = [
            row["id"]
            for row in await crowd.rows(
                "SELECT request_id::text AS id FROM request WHERE session_id = $1::text::uuid", session
            )
        ]
        await crowd.execute(
            "UPDATE request SET status = 'in_progress', response = $2 WHERE request_id = $1::text::uuid",
            requests[0],
            f"unheard {random.random()}",
        )
        await crowd.execute("DELETE FROM request WHERE request_id = $1::text::uuid", requests[1])
        await crowd.request(session)


async def polls_show_the_truth(crowd: Crowd) -> None:
    """Wait until every client that polls shows what is stored, the streams whatever they show."""
    async with asyncio.timeout(10):
        while any(line.startswith("poll") for line in crowd.differences(await crowd.truth())):
            await asyncio.sleep(0.02)


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    ("names", "source"),
    [
        ((TRIGGER,), "notify"),
        ((f"{TRIGGER}_insert", f"{TRIGGER}_delete"), "notify"),
        (STAMPS, "notify"),
        ((*STAMPS, TRIGGER), "notify"),
        (STAMPS, "poll"),
    ],
    ids=["the one that tells", "some that tell", "those that stamp", "both", "those that stamp, polled"],
)
async def test_dropped_triggers_are_noticed_and_made_good(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, names: tuple[str, ...], source: str
) -> None:
    crowd = await gather(own_servers(own_postgres.dsn("rowcast"), ROWCAST_SOURCE=source))
    await crowd.join()
    definitions = await crowd.rows(DEFINITIONS, list(names))
    assert len(definitions) == len(names)
    await crowd.execute(";".join(f'DROP TRIGGER "{name}" ON request' for name in names))
    await change_everything(crowd)  # before it can have been noticed
    await crowd.until_seen("degraded")
    await change_everything(crowd)
    status, said = await asyncio.to_thread(readiness, crowd.server)
    assert status == 503
    assert "trigger missing" in said
    assert "run `rowcast migrate`" in said
    assert all(name in said for name in names)
    await polls_show_the_truth(crowd)
    await change_everything(crowd)
    await polls_show_the_truth(crowd)

    await crowd.execute(";".join(row["definition"] for row in definitions))
    await crowd.converged(within=3)
    await crowd.until_seen("synced", more_than=1)
    assert await until_ready(crowd.server) < 3
    async with crowd.written():
        await crowd.until(lambda: crowd.counts["committed"] > 20, "there is load")
    await crowd.converged(within=2)
    assert crowd.is_unbroken
    assert crowd.server.log.count("trigger missing") == 1
    assert "Traceback" not in crowd.server.log


@pytest.mark.fault(56)
@pytest.mark.parametrize("how", ["switched off", "replaced"])
async def test_triggers_that_were_away_for_a_moment_only_are_noticed_too(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather, how: str
) -> None:
    """Between two probes: nobody saw that they were away, but it shows that they were."""
    crowd = await gather(own_servers(own_postgres.dsn("rowcast")))
    await crowd.join()
    (definition,) = await crowd.rows(DEFINITIONS, [TRIGGER])
    if how == "replaced":
        await crowd.execute(f'DROP TRIGGER "{TRIGGER}" ON request')
        await change_everything(crowd)
        await crowd.execute(definition["definition"])
    else:
        await crowd.execute(";".join(f'ALTER TABLE request DISABLE TRIGGER "{name}"' for name in ALL))
        await change_everything(crowd)
        await crowd.execute(";".join(f'ALTER TABLE request ENABLE ALWAYS TRIGGER "{name}"' for name in ALL))
    await crowd.converged(within=3)
    assert crowd.is_unbroken


@pytest.mark.fault(56)
async def test_a_migration_that_is_taken_back_is_a_503_and_no_500(
    own_postgres: EmbeddedPostgres, own_servers: Callable[..., Any], gather: Gather
) -> None:
    dsn = own_postgres.dsn("rowcast")
    crowd = await gather(own_servers(dsn))
    await crowd.join()
    await asyncio.to_thread(downgrade, dsn, FIRST)
    await crowd.until_seen("degraded")

    def ask() -> None:
        with crowd.server.client(crowd.token) as client:
            session = crowd.sessions[0]
            for path in (f"/api/session/{session}/requests", f"/api/sse/{session}", f"/api/request/{session}/1"):
                answer = client.get(path)
                assert answer.status_code == 503, (path, answer.text, crowd.server.log[-6000:])
                assert answer.json()["error"] == "Temporarily unavailable"

    await asyncio.to_thread(ask)
    status, said = await asyncio.to_thread(readiness, crowd.server)
    assert status == 503
    assert "run `rowcast migrate`" in said
    assert {name for client in crowd.polls for name in client.counts if name.startswith("poll ")} <= {
        "poll 200", "poll 304", "poll 503"
    }  # fmt: skip
    await crowd.execute("UPDATE request SET status = 'in_progress', response = 'unheard'")
    await asyncio.to_thread(upgrade, dsn, NOTIFY)
    await asyncio.to_thread(upgrade, dsn)
    await crowd.converged(within=3)
    await until_ready(crowd.server)
    assert crowd.is_unbroken
