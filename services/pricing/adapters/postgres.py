"""Prices in PostgreSQL, a batch at a time: offers for reading, items and contracts for changing."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.values import Money
from services.pricing.domain import (
    Contract,
    ContractKey,
    ContractPrices,
    ContractTier,
    Item,
    ItemKey,
    ListPrice,
    Offer,
    OfferKey,
    VolumeTier,
)

TIERS_CACHED_MAX = 10_000

_READ_ITEMS = text("""
    SELECT sku, unit, currency, unit_price_minor, CAST(tiers AS text), scarcity_surcharge, price_sequence, scarce,
        stock_sequence
    FROM item
    WHERE sku = ANY(CAST(:skus AS text[]))
""")

_READ_CONTRACT_PRICES = text("""
    SELECT price.partner_id, price.sku, price.from_quantity, price.unit_price_minor, price.currency
    FROM unnest(CAST(:partners AS text[]), CAST(:skus AS text[])) AS wanted (partner_id, sku)
    JOIN contract_price AS price ON price.partner_id = wanted.partner_id AND price.sku = wanted.sku
""")

_INSERT_MISSING_CONTRACTS = text("""
    INSERT INTO contract (partner_id)
    SELECT partner_id FROM unnest(CAST(:partners AS text[])) AS wanted (partner_id) ORDER BY partner_id
    ON CONFLICT DO NOTHING
""")

_LOCK_CONTRACTS = text("""
    SELECT partner_id, sequence
    FROM contract
    WHERE partner_id = ANY(CAST(:partners AS text[]))
    ORDER BY partner_id
    FOR UPDATE
""")

_INSERT_MISSING_ITEMS = text("""
    INSERT INTO item (sku)
    SELECT sku FROM unnest(CAST(:skus AS text[])) AS wanted (sku) ORDER BY sku
    ON CONFLICT DO NOTHING
""")

_LOCK_ITEMS = text(f"{_READ_ITEMS.text} ORDER BY sku FOR UPDATE")

_UPDATE_CONTRACTS = text("""
    UPDATE contract
    SET sequence = changed.sequence
    FROM unnest(CAST(:partners AS text[]), CAST(:sequences AS bigint[])) AS changed (partner_id, sequence)
    WHERE contract.partner_id = changed.partner_id
""")

_UPDATE_ITEMS = text("""
    UPDATE item
    SET unit = changed.unit, currency = changed.currency, unit_price_minor = changed.unit_price_minor,
        tiers = CAST(changed.tiers AS jsonb), scarcity_surcharge = changed.scarcity_surcharge,
        price_sequence = changed.price_sequence, scarce = changed.scarce, stock_sequence = changed.stock_sequence
    FROM unnest(
        CAST(:skus AS text[]), CAST(:units AS text[]), CAST(:currencies AS text[]), CAST(:prices AS bigint[]),
        CAST(:tiers AS text[]), CAST(:surcharges AS integer[]), CAST(:price_sequences AS bigint[]),
        CAST(:scarce AS boolean[]), CAST(:stock_sequences AS bigint[])
    ) AS changed (
        sku, unit, currency, unit_price_minor, tiers, scarcity_surcharge, price_sequence, scarce, stock_sequence
    )
    WHERE item.sku = changed.sku
""")

_DELETE_CONTRACT_PRICES = text("DELETE FROM contract_price WHERE partner_id = ANY(CAST(:partners AS text[]))")

_INSERT_CONTRACT_PRICES = text("""
    INSERT INTO contract_price (partner_id, sku, currency, from_quantity, unit_price_minor)
    SELECT partner_id, sku, currency, from_quantity, unit_price_minor
    FROM unnest(
        CAST(:partners AS text[]), CAST(:skus AS text[]), CAST(:currencies AS text[]),
        CAST(:quantities AS numeric[]), CAST(:prices AS bigint[])
    ) AS agreed (partner_id, sku, currency, from_quantity, unit_price_minor)
    ORDER BY partner_id, sku, currency, from_quantity
""")


class PostgresOffers:
    """Repository[OfferKey, Offer], for reading.

    Nothing is locked: pricing an order changes nothing, so there is no state that two replicas could overwrite, and a lock
    would only make prices wait for each other and for the catalogue's changes. Each statement sees one moment, and a
    contract is replaced in one transaction, so no order is priced with half of one.
    """

    async def load(self, connection: AsyncConnection, keys: Sequence[OfferKey]) -> Mapping[OfferKey, Offer]:
        wanted = set(keys)
        items = {key.sku: item for key, item in await _items(connection, sorted({key.sku for key in wanted}), lock=False)}
        rows = await connection.execute(
            _READ_CONTRACT_PRICES,
            {"partners": [key.partner_id for key in wanted], "skus": [key.sku for key in wanted]},
        )
        agreed: dict[OfferKey, list[ContractTier]] = defaultdict(list)
        for partner_id, sku, from_quantity, unit_price_minor, currency in rows:
            unit_price = Money(amount_minor=unit_price_minor, currency=currency)
            agreed[OfferKey(partner_id, sku)].append(ContractTier(from_quantity, unit_price))
        unknown = Item()
        return {key: Offer(items.get(key.sku, unknown), tuple(agreed.get(key, ()))) for key in wanted}

    async def save(self, connection: AsyncConnection, changed: Mapping[OfferKey, Offer], facts: Sequence[object]) -> None:
        """Writes nothing. Offers are loaded without a lock, so no decision may change them."""
        assert not changed
        assert not facts


class PostgresPrices:
    """Repository of items and contracts, for changing. Contracts are locked before items, each sorted by its key."""

    async def load(
        self, connection: AsyncConnection, keys: Sequence[ItemKey | ContractKey]
    ) -> Mapping[ItemKey | ContractKey, Item | Contract]:
        partners = sorted({key.partner_id for key in keys if isinstance(key, ContractKey)})
        skus = sorted({key.sku for key in keys if isinstance(key, ItemKey)})
        states: dict[ItemKey | ContractKey, Item | Contract] = {}
        if partners:
            await connection.execute(_INSERT_MISSING_CONTRACTS, {"partners": partners})
            rows = await connection.execute(_LOCK_CONTRACTS, {"partners": partners})
            states.update((ContractKey(partner_id), Contract(sequence)) for partner_id, sequence in rows)
        if skus:
            await connection.execute(_INSERT_MISSING_ITEMS, {"skus": skus})
            states.update(await _items(connection, skus, lock=True))
        return states

    async def save(
        self,
        connection: AsyncConnection,
        changed: Mapping[ItemKey | ContractKey, Item | Contract],
        facts: Sequence[object],
    ) -> None:
        """Two statements for what changed, two for the contracts' prices; only those that are needed."""
        contracts = [(key, state) for key, state in changed.items() if isinstance(state, Contract)]
        items = [(key, state) for key, state in changed.items() if isinstance(state, Item)]
        if contracts:
            await connection.execute(
                _UPDATE_CONTRACTS,
                {
                    "partners": [key.partner_id for key, _ in contracts if isinstance(key, ContractKey)],
                    "sequences": [contract.sequence for _, contract in contracts],
                },
            )
        if items:
            await _update_items(connection, [(key.sku, item) for key, item in items if isinstance(key, ItemKey)])
        if replaced := [fact for fact in facts if isinstance(fact, ContractPrices)]:
            await _replace_contract_prices(connection, replaced)


async def _items(connection: AsyncConnection, skus: Sequence[str], *, lock: bool) -> Iterable[tuple[ItemKey, Item]]:
    rows = await connection.execute(_LOCK_ITEMS if lock else _READ_ITEMS, {"skus": skus})
    return [
        (
            ItemKey(sku),
            Item(
                _list_price(unit, currency, price_minor, tiers, surcharge) if price_sequence is not None else None,
                price_sequence,
                scarce,
                stock_sequence,
            ),
        )
        for sku, unit, currency, price_minor, tiers, surcharge, price_sequence, scarce, stock_sequence in rows
    ]


def _list_price(unit: str, currency: str, price_minor: int, tiers: str, surcharge: int) -> ListPrice:
    return ListPrice(unit, Money(amount_minor=price_minor, currency=currency), _tiers(tiers), surcharge)


# Many items share their tiers, most have no tiers; reading them is the dearest part of a row.
@lru_cache(maxsize=TIERS_CACHED_MAX)
def _tiers(stored: str) -> tuple[VolumeTier, ...]:
    return tuple(VolumeTier(Decimal(quantity), discount) for quantity, discount in json.loads(stored))


async def _update_items(connection: AsyncConnection, items: Sequence[tuple[str, Item]]) -> None:
    prices = [item.list_price for _, item in items]
    await connection.execute(
        _UPDATE_ITEMS,
        {
            "skus": [sku for sku, _ in items],
            "units": [price and price.unit for price in prices],
            "currencies": [price and price.unit_price.currency for price in prices],
            "prices": [price and price.unit_price.amount_minor for price in prices],
            "tiers": [
                price and json.dumps([(str(tier.from_quantity), tier.discount) for tier in price.tiers]) for price in prices
            ],
            "surcharges": [price and price.scarcity_surcharge for price in prices],
            "price_sequences": [item.price_sequence for _, item in items],
            "scarce": [item.scarce for _, item in items],
            "stock_sequences": [item.stock_sequence for _, item in items],
        },
    )


async def _replace_contract_prices(connection: AsyncConnection, replaced: Sequence[ContractPrices]) -> None:
    # Of several contracts of one partner in a batch, the last decided is the newest. The contracts' rows are locked.
    newest = {contract.partner_id: contract for contract in replaced}
    await connection.execute(_DELETE_CONTRACT_PRICES, {"partners": sorted(newest)})
    rows = [(partner_id, price) for partner_id, contract in newest.items() for price in contract.prices]
    if not rows:
        return
    await connection.execute(
        _INSERT_CONTRACT_PRICES,
        {
            "partners": [partner_id for partner_id, _ in rows],
            "skus": [price.sku for _, price in rows],
            "currencies": [price.tier.unit_price.currency for _, price in rows],
            "quantities": [price.tier.from_quantity for _, price in rows],
            "prices": [price.tier.unit_price.amount_minor for _, price in rows],
        },
    )
