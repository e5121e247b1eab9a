"""The complete answer to "what does inventory react to"."""

from contracts.inventory.v1 import (
    ItemChanged,
    QueryAvailability,
    ReleaseStock,
    ReserveStock,
    StockCounted,
    StockReceived,
    WarehouseChanged,
)
from contracts.orders.v1 import OrderCompleted
from infra.chassis.runtime import Service
from infra.chassis.service import Consumer, on, on_many, undo_many
from services.inventory.adapters.postgres import PostgresStock, reconcile
from services.inventory.handlers import (
    change_item,
    change_warehouse,
    commit_stock,
    count_stock,
    item_of,
    items_and_order,
    items_asked_for,
    items_of,
    items_sent,
    query_availability,
    receive_stock,
    release_stock,
    reserve_stock,
    warehouse_of,
)
from services.inventory.settings import Settings

SETTINGS = Settings


def build(settings: Settings) -> Service:
    return Service(
        name="inventory",
        consumers=(
            Consumer(
                queue="inventory.commands",
                repository=PostgresStock(keeps_new_items=False),
                routes=(
                    on_many(ReserveStock, reserve_stock, keys=items_of),
                    undo_many(ReleaseStock, release_stock, of=ReserveStock, keys=items_and_order),
                    on_many(QueryAvailability, query_availability, keys=items_asked_for),
                ),
            ),
            Consumer(
                queue="inventory.events",
                repository=PostgresStock(keeps_new_items=True),
                routes=(
                    on_many(OrderCompleted, commit_stock, keys=items_sent),
                    on(StockReceived, receive_stock, key=item_of),
                    on(StockCounted, count_stock, key=item_of),
                    on(ItemChanged, change_item, key=item_of),
                    on(WarehouseChanged, change_warehouse, key=warehouse_of),
                ),
            ),
        ),
        reconcile=reconcile,
    )
