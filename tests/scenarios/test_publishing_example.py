"""docs/examples/publish_stock_received.py does what docs/systems.md says of it."""

import asyncio
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg

from tests.support.platform import Platform
from tests.support.waiting import wait_until

EXAMPLE = Path(__file__).parents[2] / "docs/examples/publish_stock_received.py"
SKU = "P-499"


async def example(platform: Platform, event_id: str) -> int:
    broker = platform.addresses["systems"]["wms"]["broker"]
    program = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), broker, "W-HAM", SKU, "25", event_id)
    return await asyncio.wait_for(program.wait(), 30)


async def test_the_example_publishes_stock_that_arrives_once_however_often_it_is_run(platform: Platform) -> None:
    database = await asyncpg.connect(platform.addresses["database"])
    try:
        before = await on_hand(database)
        first, last = str(uuid4()), str(uuid4())

        assert [await example(platform, first) for _ in range(2)] == [0, 0]
        # The third comes after the first two in the same queue, so when it has been counted they have been seen as well.
        assert await example(platform, last) == 0

        async def handled() -> bool:
            return bool(await database.fetchval("SELECT count(*) FROM inventory.inbox WHERE message_id = $1", last))

        await wait_until(handled, within=20, what="the last fact is handled")
        assert await on_hand(database) == before + 50
    finally:
        await database.close()


async def on_hand(database: asyncpg.Connection) -> int:
    return int(await database.fetchval("SELECT on_hand FROM inventory.stock WHERE warehouse = 'W-HAM' AND sku = $1", SKU))
