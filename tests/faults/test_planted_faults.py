"""The proof proves something: faults planted in the tables of a healthy platform are found by id, all of them and nothing else."""

import json

import asyncpg

from tests.support.breakage import whole
from tests.support.history import History
from tests.support.invariants import check, drained, violations
from tests.support.platform import Platform
from tests.support.workload import Partner, orders

OPERATION = "planted:reserve-credit"
GIVEN_UP = "planted-without-a-dead-letter"


async def test_planted_faults_are_found_and_nothing_else(fragile: Platform, history: History, seed: int) -> None:
    await whole(fragile)
    wanted = orders(seed, 12, f"planted-{seed}")
    partner = Partner(fragile.addresses["partners"]["acme"]["api_key"], [fragile.addresses["ingress"]], history)
    await partner.run(wanted, per_second=20)
    await drained(fragile)
    assert await violations(fragile, wanted, history) == []
    database = await asyncpg.connect(fragile.addresses["database"])
    try:
        lost, doubled, undelivered = await _plant(database, f"planted-{seed}-%")
        said = await violations(fragile, wanted, history)
        code, out, _ = await fragile.run("tutti", "reconcile", "--json")
    finally:
        await _repair(database)
        await database.close()

    for sentence in (
        f"I1: {lost['order_id']} was accepted and has no process",
        f"I2: {doubled['order_id']} has 2 credit holds",
        f"I5: the line of {doubled['buyer_id']}",
        "I6: P-1 in W-HAM",
        f"I8: {undelivered['type']} {undelivered['message_id']}",
    ):
        assert any(one.startswith(sentence) for one in said), said
    document = json.loads(out)
    assert (code, document["ok"]) == (1, False)
    assert [one["id"] for one in document["lost"]] == [lost["correlation_id"], GIVEN_UP]
    assert [one["id"] for one in document["undelivered"]] == [undelivered["message_id"]]
    assert OPERATION in [one["id"] for one in document["unanswered"]]
    assert "P-1/W-HAM" in [one["id"] for one in document["unexplained"]]
    await check(fragile, wanted, history)


async def _plant(database: asyncpg.Connection, numbers: str) -> tuple[asyncpg.Record, asyncpg.Record, asyncpg.Record]:
    """(an order without its process, one that is charged twice, a message that nobody received). `_repair` knows what was there."""
    completed = await database.fetch(
        "SELECT * FROM ingress.partner_order WHERE order_number LIKE $1 AND status = 'completed' ORDER BY order_id LIMIT 2",
        numbers,
    )
    lost, doubled = completed
    await database.execute(
        "CREATE TEMP TABLE kept_process AS SELECT * FROM orchestrator.workflow_instance WHERE saga_id = '{}'".format(
            lost["correlation_id"]
        )
    )
    await database.execute("DELETE FROM orchestrator.workflow_instance WHERE saga_id = $1", lost["correlation_id"])
    await database.execute(
        "INSERT INTO credit.credit_hold (operation_id, order_id, buyer_id, currency, amount_minor, state, placed_at, ended_at)"
        f" SELECT '{OPERATION}', order_id, buyer_id, currency, amount_minor, state, placed_at, ended_at"
        " FROM credit.credit_hold WHERE order_id = $1",
        doubled["order_id"],
    )
    await database.execute(
        f"INSERT INTO credit.operation (operation_id, correlation_id) VALUES ('{OPERATION}', $1)", doubled["correlation_id"]
    )
    await database.execute("UPDATE inventory.stock SET reserved = reserved + 1 WHERE sku = 'P-1' AND warehouse = 'W-HAM'")
    undelivered = await database.fetchrow(
        "SELECT message_id, type FROM orchestrator.emission WHERE correlation_id = $1 AND type = 'credit.reserve-credit.v1'",
        doubled["correlation_id"],
    )
    assert undelivered is not None
    await database.execute(
        "CREATE TEMP TABLE kept_inbox AS SELECT * FROM credit.inbox WHERE message_id = '{}'".format(undelivered["message_id"])
    )
    await database.execute("DELETE FROM credit.inbox WHERE message_id = $1", undelivered["message_id"])
    await database.execute(
        "INSERT INTO credit.inbox (consumer, source, message_id, state) VALUES ('credit.events', '/erp', $1, 'dead')", GIVEN_UP
    )
    return lost, doubled, undelivered


async def _repair(database: asyncpg.Connection) -> None:
    await database.execute("INSERT INTO orchestrator.workflow_instance SELECT * FROM kept_process")
    await database.execute(f"DELETE FROM credit.credit_hold WHERE operation_id = '{OPERATION}'")
    await database.execute(f"DELETE FROM credit.operation WHERE operation_id = '{OPERATION}'")
    await database.execute("UPDATE inventory.stock SET reserved = reserved - 1 WHERE sku = 'P-1' AND warehouse = 'W-HAM'")
    await database.execute("INSERT INTO credit.inbox SELECT * FROM kept_inbox")
    await database.execute("DELETE FROM credit.inbox WHERE message_id = $1", GIVEN_UP)
