"""Values of any size cost an update that leaves them alone nothing, and still no change of them is missed."""

import itertools
import secrets
import time

import pytest

from lab import Lab

pytestmark = pytest.mark.anyio

WIDE = 10_000_000


async def quickest(lab: Lab, key: object, assignments: str) -> float:
    """The shortest of several updates, in seconds: the one that was disturbed least."""
    durations = []
    for _ in range(15):
        started = time.perf_counter()
        await lab.set(key, assignments)
        durations.append(time.perf_counter() - started)
    return min(durations)


@pytest.mark.parametrize(
    "assignments", ["note = md5(random()::text)", "priority = priority + 1"], ids=["unwatched", "watched"]
)
async def test_a_wide_value_does_not_slow_down_updates_of_other_columns(jobs: Lab, assignments: str) -> None:
    """Comparing it made this a hundred times slower."""
    narrow = await jobs.add(result="x", document='"x"')
    text = secrets.token_hex(WIDE // 2)
    wide = await jobs.add(result=text, document=f'"{text}"')
    before = await jobs.version(wide)
    base = await quickest(jobs, narrow, assignments)
    assert await quickest(jobs, wide, assignments) < 8 * base
    assert await jobs.version(wide) == before + (15 if "priority" in assignments else 0)


@pytest.mark.parametrize("storage", ["extended", "external", "main"])
async def test_a_value_replaced_by_one_of_the_same_length_is_a_new_version(own_jobs: Lab, storage: str) -> None:
    await own_jobs.execute(f"ALTER TABLE job ALTER result SET STORAGE {storage}, ALTER document SET STORAGE {storage}")
    for length, column in itertools.product((1, 1999, 2000, 2001, 8000, 100_000), ("result", "document")):
        random = secrets.token_hex(length)
        for first, second in (("a" * length, "b" * length), (f"a{random[1:length]}", f"b{random[1:length]}")):
            key = await own_jobs.add(**{column: f'"{first}"'})
            before = await own_jobs.version(key)
            await own_jobs.set(key, f"{column} = $2", f'"{second}"')
            assert await own_jobs.version(key) == before + 1, (length, column)
            await own_jobs.set(key, f"{column} = $2", f'"{second}"')
            await own_jobs.set(key, f"{column} = {column}")
            await own_jobs.set(key, "note = 'x'")
            assert await own_jobs.version(key) == before + 1, (length, column)


async def test_one_wide_value_of_two_is_enough(jobs: Lab) -> None:
    key = await jobs.add(result=secrets.token_hex(50_000), document=f'"{secrets.token_hex(50_000)}"')
    before = await jobs.version(key)
    await jobs.set(key, "result = result, document = $2", f'"{secrets.token_hex(50_000)}"')
    assert await jobs.version(key) == before + 1
