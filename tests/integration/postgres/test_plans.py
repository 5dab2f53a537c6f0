"""The hot queries find their rows by an index, with any kind of plan."""

import json
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import pytest

from lab import JOBS, Lab
from rowcast.postgres.statements import document, load, values_of

pytestmark = pytest.mark.anyio

SESSIONS, ROWS = 2000, 20


def owner(number: int) -> UUID:
    return UUID(int=number)


@pytest.fixture
async def crowded(own_jobs: Lab) -> Lab:
    """40,000 rows and 10,000 tombstones of 2,000 sessions."""
    await own_jobs.execute("ALTER TABLE job DISABLE TRIGGER USER")
    await own_jobs.execute(f"""
        INSERT INTO job (owner, rowcast_xid, rowcast_version)
            SELECT lpad(to_hex(i % {SESSIONS}), 32, '0')::uuid, (i % 500 + 3)::text::xid8, i + 2
            FROM generate_series(1, {SESSIONS * ROWS}) AS i;
        INSERT INTO rowcast.tombstone (watch, key, session_id, version, xid)
            SELECT 'job', i, lpad(to_hex(i % {SESSIONS}), 32, '0')::uuid, i + 2, (i % 500 + 3)::text::xid8
            FROM generate_series(1, {SESSIONS * 5}) AS i
    """)
    await own_jobs.execute("ALTER TABLE job ENABLE TRIGGER USER")
    return own_jobs


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def plan_of(lab: Lab, statement: str, *arguments: str) -> list[dict[str, Any]]:
    """The nodes of the plan that a prepared statement of this session gets."""
    await lab.execute(f"PREPARE hot AS {statement}")
    values = ", ".join(arguments)
    explained = await lab.value(f"EXPLAIN (FORMAT JSON) EXECUTE hot({values})")
    await lab.execute("DEALLOCATE hot")
    return list(nodes(json.loads(explained)[0]["Plan"]))


def array(items: Iterable[object]) -> str:
    return "'{" + ",".join(str(item) for item in items) + "}'"


def hot() -> dict[str, str]:
    return load("read.sql", values_of(JOBS) | {"document": document(JOBS, "r")})


async def test_reads_go_by_the_index_on_session_and_transaction(crowded: Lab) -> None:
    """Before the table was ever analysed, and after; with plans for the values, and for any."""
    for analysed in (False, True):
        if analysed:
            await crowded.execute("ANALYZE job, rowcast.tombstone")
        for mode in ("force_custom_plan", "force_generic_plan"):
            await crowded.execute(f"SET plan_cache_mode = {mode}")
            await check_plans(crowded, analysed)


async def check_plans(crowded: Lab, analysed: bool) -> None:
    one, few, crowd = (array(owner(number) for number in range(count)) for count in (1, 8, 50))
    cases = [
        ("session", one, array([2**64 - 1])),
        ("session", one, array([400])),
        ("session", few, array([400] * 8)),
        ("changes", one, array([400])),
        ("changes", crowd, array([498] * 50)),
    ]
    for name, *arguments in cases:
        plan = await plan_of(crowded, hot()[name], *arguments)
        scans = {node["Relation Name"]: node["Node Type"] for node in plan if "Relation Name" in node}
        indexes = {node["Index Name"] for node in plan if "Index Name" in node}
        assert scans["job"] in {"Index Scan", "Bitmap Heap Scan"}, (name, scans)
        assert "rowcast_job_session_xid" in indexes
        assert scans["tombstone"] in {"Index Scan", "Bitmap Heap Scan"}, (name, scans)
        # PostgreSQL 18 may skip through the primary key as long as it knows nothing of the table.
        assert "tombstone_session_xid" in indexes or not analysed
        bounds = " ".join(str(node.get("Index Cond", "")) for node in plan)
        assert name == "session" or "rowcast_xid" in bounds


async def test_an_insert_looks_its_tombstone_up_by_key(crowded: Lab) -> None:
    await crowded.execute("ANALYZE job, rowcast.tombstone")
    scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'rowcast.tombstone'::regclass"
    force = "SELECT pg_stat_force_next_flush()"
    forced = crowded.main.get_server_version().major >= 15
    if not forced:
        pytest.skip("PostgreSQL 14 shows its counters when it likes")
    await crowded.execute(force)
    before = await crowded.value(scans)
    for _ in range(20):
        await crowded.add()
    await crowded.execute(force)
    assert await crowded.value(scans) == before
