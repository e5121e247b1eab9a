"""The complete answer to "what does pricing react to"."""

from contracts.inventory.v1 import StockLow, StockRecovered
from contracts.pricing.v1 import ContractChanged, ListPriceChanged, PriceOrder
from infra.chassis.runtime import Service
from infra.chassis.service import Consumer, on, on_many
from services.pricing.adapters.postgres import PostgresOffers, PostgresPrices
from services.pricing.handlers import (
    change_contract,
    change_list_price,
    contract_of,
    item_of,
    note_recovery,
    note_scarcity,
    offers_of,
    price_order,
)
from services.pricing.settings import Settings

SETTINGS = Settings


def build(settings: Settings) -> Service:
    return Service(
        name="pricing",
        consumers=(
            Consumer(
                queue="pricing.commands",
                repository=PostgresOffers(),
                routes=(on_many(PriceOrder, price_order, keys=offers_of),),
            ),
            Consumer(
                queue="pricing.events",
                repository=PostgresPrices(),
                routes=(
                    on(ListPriceChanged, change_list_price, key=item_of),
                    on(ContractChanged, change_contract, key=contract_of),
                    on(StockLow, note_scarcity, key=item_of),
                    on(StockRecovered, note_recovery, key=item_of),
                ),
            ),
        ),
    )
