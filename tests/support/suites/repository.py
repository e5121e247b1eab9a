"""What every repository promises to the loop (`Repository` in infra/chassis/service.py), tested on each by inheriting.

    RepositoryPromises                every key is there; the number of statements does not grow
        └── LockingPromises           who comes second waits and sees; opposite orders do not deadlock; save only updates
                └── InsertingPromises a key never heard of is locked as well, because it gets a row first

A service's integration test inherits the last that is true of its repository, says which keys there are and how a state is
changed, and has a fixture `engine` on an empty schema of that service.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from infra.chassis.hot_connection import hot_transaction
from tests.support.waiting import wait_until

FEW, MANY = 1, 50
ROUNDS = 20
DEADLINE_SECONDS = 60.0
# A deadlock is then noticed at once.
SOON = text("SET LOCAL deadlock_timeout = '20ms'")
WHO = text("SELECT pg_backend_pid()")
BLOCKED = text(
    "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0 AND datname = current_database()"
)

Key = Any
State = Any


class RepositoryPromises:
    """Of every repository, also of one that only reads. `repository` is what is tested."""

    repository: ClassVar[Any]

    def keys(self, count: int, mark: str) -> Sequence[Key]:
        """So many keys of each kind, in the order of their locks; other marks have other keys."""
        raise NotImplementedError

    def changed(self, states: Mapping[Key, State]) -> Mapping[Key, State]:
        """Each of these states as a decision would change it. A repository that only reads has none."""
        return {}

    def facts(self, keys: Sequence[Key]) -> Sequence[object]:
        """What decisions about these keys would have written beside their states."""
        return ()

    async def test_load_returns_every_key_that_it_is_asked_for_also_those_asked_for_twice(self, engine: AsyncEngine) -> None:
        keys = self.keys(MANY, "all")

        for _ in ("never heard of", "known"):
            async with hot_transaction(engine) as connection:
                loaded = await self.repository.load(connection, [*keys, *reversed(keys)])

            assert loaded.keys() == set(keys)

    async def test_many_keys_need_no_more_statements_than_few(self, engine: AsyncEngine) -> None:
        # The first use may prepare something for all that follow.
        await self._statements(engine, self.keys(FEW, "first"))
        few, many = self.keys(FEW, "few"), self.keys(MANY, "many")

        never_heard_of = [await self._statements(engine, few), await self._statements(engine, many)]
        known = [await self._statements(engine, few), await self._statements(engine, many)]

        assert len(never_heard_of[0]) == len(never_heard_of[1]), never_heard_of
        assert len(known[0]) == len(known[1]), known

    async def _statements(self, engine: AsyncEngine, keys: Sequence[Key]) -> list[str]:
        """What a batch about these keys sends, BEGIN and COMMIT included."""
        sent: list[str] = []
        async with engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            log = lambda query: sent.append(query.query)  # noqa: E731 - the same object is needed twice
            driver.add_query_logger(log)
            try:
                async with hot_transaction(_Only(connection)) as hot:  # type: ignore[arg-type]
                    states = await self.repository.load(hot, keys)
                    await self.repository.save(hot, self.changed(states), self.facts(keys))
                # The driver tells its loggers in the loop's next turn.
                await wait_until(lambda: sent and sent[-1] == "COMMIT")
            finally:
                driver.remove_query_logger(log)
        return sent


class LockingPromises(RepositoryPromises):
    """Of a repository whose states are changed. `stored` makes sure that the keys have rows."""

    async def stored(self, engine: AsyncEngine, keys: Sequence[Key]) -> None:
        """Gives each key a row, where loading it does not do so."""
        async with hot_transaction(engine) as connection:
            await self.repository.load(connection, keys)

    async def test_what_is_saved_is_loaded_again_and_nothing_else_has_changed(self, engine: AsyncEngine) -> None:
        keys, others = self.keys(MANY, "saved"), self.keys(MANY, "others")
        await self.stored(engine, [*keys, *others])
        before = await self._load(engine, [*keys, *others])
        changed = self.changed({key: before[key] for key in keys})
        assert all(changed[key] != before[key] for key in keys)

        await self._save(engine, changed)

        after = await self._load(engine, [*keys, *others])
        assert self.as_stored(after) == self.as_stored({**before, **changed})

    def as_stored(self, states: Mapping[Key, State]) -> Mapping[Key, State]:
        """The states without what is not stored of them."""
        return states

    async def test_who_comes_second_waits_and_sees_what_the_first_has_saved(self, engine: AsyncEngine) -> None:
        keys = self.keys(FEW, "contended")
        await self.stored(engine, keys)

        await self._second_waits_for_first(engine, keys)

    async def test_batches_in_opposite_order_wait_for_each_other_instead_of_deadlocking(self, engine: AsyncEngine) -> None:
        keys = self.keys(MANY, "stored")
        await self.stored(engine, keys)

        for middle in keys[len(keys) // 4 :: len(keys) // 4]:
            await self._cross(engine, keys, middle)

    async def test_batches_in_opposite_order_at_the_same_moment_do_not_deadlock(self, engine: AsyncEngine) -> None:
        keys = self.keys(MANY, "stored")
        await self.stored(engine, keys)

        for _ in range(ROUNDS):
            await self._race(engine, keys)

    async def test_save_writes_no_state_that_was_not_loaded(self, engine: AsyncEngine) -> None:
        keys = self.keys(FEW, "never-loaded")
        async with _rolled_back(engine) as connection:
            before = await self.repository.load(connection, keys)

        await self._save(engine, self.changed(before))

        assert await self._load(engine, keys) == before

    async def _load(self, engine: AsyncEngine, keys: Sequence[Key]) -> Mapping[Key, State]:
        async with hot_transaction(engine) as connection:
            loaded: Mapping[Key, State] = await self.repository.load(connection, keys)
        return loaded

    async def _save(self, engine: AsyncEngine, changed: Mapping[Key, State]) -> None:
        async with hot_transaction(engine) as connection:
            await self.repository.save(connection, changed, ())

    async def _second_waits_for_first(self, engine: AsyncEngine, keys: Sequence[Key]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async with hot_transaction(engine) as first:
                changed = self.changed(await self.repository.load(first, keys))
                second = asyncio.create_task(self._load(engine, keys))
                await wait_until(lambda: _blocked(engine), what="the second waits for the first")
                await self.repository.save(first, changed, ())
            seen = await second

        assert self.as_stored(seen) == self.as_stored(changed)

    async def _cross(self, engine: AsyncEngine, keys: Sequence[Key], middle: Key) -> None:
        """Two batches come to a held key from both ends, each with the locks of all before it: those that it takes in order.

        When the key is let go, whoever gets it goes on to what the other holds. Only where both come from the same end does
        nothing of the kind happen.
        """
        async with asyncio.timeout(DEADLINE_SECONDS):
            async with hot_transaction(engine) as gate:
                await self.repository.load(gate, [middle])
                batches = []
                for count, order in enumerate((keys, keys[::-1]), start=1):
                    batches.append(asyncio.create_task(self._touch(engine, order)))
                    await wait_until(lambda: _blocked(engine), lambda blocked, count=count: blocked >= count)
            await asyncio.gather(*batches)

    async def _race(self, engine: AsyncEngine, keys: Sequence[Key]) -> None:
        """Two batches with the same keys in opposite order set off together."""
        barrier = asyncio.Barrier(2)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*(self._touch(engine, order, barrier) for order in (keys, keys[::-1])))

    async def _touch(self, engine: AsyncEngine, keys: Sequence[Key], barrier: asyncio.Barrier | None = None) -> None:
        async with hot_transaction(engine) as connection:
            await connection.execute(SOON)
            if barrier is not None:
                await barrier.wait()
            states = await self.repository.load(connection, keys)
            await self.repository.save(connection, self.changed(states), ())


class InsertingPromises(LockingPromises):
    """Of a repository that gives a key never heard of its row."""

    async def test_who_comes_second_to_a_key_never_heard_of_waits_as_well(self, engine: AsyncEngine) -> None:
        await self._second_waits_for_first(engine, self.keys(FEW, "new"))

    async def test_batches_in_opposite_order_with_keys_never_heard_of_do_not_deadlock(self, engine: AsyncEngine) -> None:
        for number in range(ROUNDS):
            await self._race(engine, self.keys(MANY, f"new-{number}"))

    async def test_opposite_orders_meet_at_a_key_never_heard_of_and_do_not_deadlock(self, engine: AsyncEngine) -> None:
        for number in range(3):
            keys = self.keys(MANY, f"met-{number}")
            await self._cross(engine, keys, keys[len(keys) // 2])


class _Only:
    """An engine whose pool is this one connection, so that its statements can be listened to."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        yield self._connection


@asynccontextmanager
async def _rolled_back(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        yield connection
        await connection.rollback()


async def _blocked(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(BLOCKED)).scalar_one())
