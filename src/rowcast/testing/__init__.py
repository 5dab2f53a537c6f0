"""A watched table and a source of changes in memory, for tests of what stands on a hub.

    table = MemoryTable(watch)
    source = MemorySource(table)
    async with Hub(watch, source=source, reader=table) as hub:
        await source.regain()
        with table.begin() as transaction:
            transaction.insert("r1", "s1", status="pending")
        source.deliver()

Everything has the semantics of the real thing that order depends on, and nothing happens by itself: transactions
commit in any order, notifications arrive when `deliver` is called, the source is lost and heard again by hand.
"""

from rowcast.testing.source import MemorySource
from rowcast.testing.table import MemoryTable

__all__ = ["MemorySource", "MemoryTable"]
