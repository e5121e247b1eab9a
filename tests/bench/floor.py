"""What this machine can do at best, measured in the same run: confirmed publishes, one hop, commits."""

import asyncio
import secrets
import statistics
import time

import aio_pika
import asyncpg

IN_FLIGHT = 200
PUBLISHES = 6000
HOPS = 200
COMMITTERS = 10
COMMITS = 2000


async def confirmed_publishes_per_second(broker_url: str, body: bytes) -> float:
    """Persistent publishes to a quorum queue, each confirmed, 200 in flight, by plain aio-pika (as in the shared evidence page)."""
    connection = await aio_pika.connect(broker_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(f"bench-{secrets.token_hex(4)}", durable=True, arguments={"x-queue-type": "quorum"})
        left = PUBLISHES

        async def publish() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                message = aio_pika.Message(body, delivery_mode=2, message_id=secrets.token_hex(16))
                await channel.default_exchange.publish(message, queue.name, mandatory=True)

        began = time.perf_counter()
        await asyncio.gather(*(publish() for _ in range(IN_FLIGHT)))
        rate = PUBLISHES / (time.perf_counter() - began)
        await queue.delete(if_unused=False, if_empty=False)
        return rate


async def hop_ms(broker_url: str, body: bytes) -> float:
    """Median milliseconds from publishing to a quorum queue until its consumer has the message, one at a time."""
    connection = await aio_pika.connect(broker_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"bench-{secrets.token_hex(4)}", durable=True, arguments={"x-queue-type": "quorum"})
        arrived: asyncio.Queue[float] = asyncio.Queue()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            arrived.put_nowait(time.perf_counter())
            await message.ack()

        await queue.consume(take)
        took = []
        for _ in range(HOPS):
            began = time.perf_counter()
            await channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), queue.name)
            took.append(await arrived.get() - began)
        await queue.delete(if_unused=False, if_empty=False)
        return statistics.median(took) * 1000


async def commits_per_second(database_url: str) -> float:
    """Single-row transactions by ten connections."""
    pool = await asyncpg.create_pool(database_url, min_size=COMMITTERS, max_size=COMMITTERS)
    try:
        await pool.execute("CREATE TABLE IF NOT EXISTS public.bench_commit (id bigint GENERATED ALWAYS AS IDENTITY, body text)")
        left = COMMITS

        async def commit() -> None:
            nonlocal left
            async with pool.acquire() as connection:
                while left > 0:
                    left -= 1
                    await connection.execute("INSERT INTO public.bench_commit (body) VALUES ('x')")

        began = time.perf_counter()
        await asyncio.gather(*(commit() for _ in range(COMMITTERS)))
        rate = COMMITS / (time.perf_counter() - began)
        await pool.execute("DROP TABLE public.bench_commit")
        return rate
    finally:
        await pool.close()
