"""The complete answer to "what does fulfillment react to"."""

from contracts.fulfillment.v1 import CancelShipment, CarrierChanged, CreateShipment, ShipmentDelivered
from infra.chassis.runtime import Beside, Service
from infra.chassis.service import Consumer, on, undo
from services.fulfillment.adapters.carriers import HttpCarriers
from services.fulfillment.adapters.postgres import PostgresParcels, reconcile
from services.fulfillment.handlers import (
    DEPENDENCY,
    cancel_shipment,
    carrier_of,
    change_carrier,
    conclude_cancellation,
    conclude_shipment,
    create_shipment,
    order_of,
    parcel_of,
    record_delivery,
)
from services.fulfillment.settings import Settings

SETTINGS = Settings


def build(settings: Settings) -> Service:
    parcels = PostgresParcels()
    carriers = HttpCarriers(
        urls={name: str(url) for name, url in settings.carrier_urls.items()},
        tokens={name: token.get_secret_value() for name, token in settings.carrier_tokens.items()},
        timeout_seconds=settings.carrier_timeout_seconds,
        connections_max=settings.carrier_connections_max,
    )
    return Service(
        name="fulfillment",
        consumers=(
            Consumer(
                queue="fulfillment.commands",
                repository=parcels,
                routes=(
                    on(CreateShipment, create_shipment, key=order_of, conclude=conclude_shipment),
                    undo(CancelShipment, cancel_shipment, of=CreateShipment, key=order_of, conclude=conclude_cancellation),
                ),
            ),
            Consumer(
                queue="fulfillment.events",
                repository=parcels,
                routes=(
                    on(CarrierChanged, change_carrier, key=carrier_of),
                    on(ShipmentDelivered, record_delivery, key=parcel_of),
                ),
            ),
        ),
        dependencies={DEPENDENCY: carriers},
        reconcile=reconcile,
        beside=lambda _: Beside(close=carriers.close),
    )
