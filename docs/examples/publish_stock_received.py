"""Tells the platform that goods have arrived. Knows the envelope and the broker, and nothing of the platform's code.

python docs/examples/publish_stock_received.py "$WMS_BROKER_URL" W-HAM P-100 25
"""

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime

import aio_pika


async def publish(broker_url: str, warehouse: str, sku: str, quantity: str, event_id: str) -> None:
    event = {
        "specversion": "1.0", "id": event_id, "source": "/wms/receiving", "type": "inventory.stock-received.v1",
        "time": datetime.now(UTC).isoformat(), "subject": sku, "datacontenttype": "application/json",
        "data": {"warehouse": warehouse, "sku": sku, "quantity": quantity},
    }  # fmt: skip
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel(on_return_raises=True)
        message = aio_pika.Message(
            json.dumps(event).encode(), content_type="application/cloudevents+json", message_id=event_id,
            type=event["type"], user_id=connection.url.user, delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )  # fmt: skip
        events = await channel.get_exchange("events", ensure=False)
        await events.publish(message, routing_key=event["type"], mandatory=True, timeout=10)


if __name__ == "__main__":
    # After an error or a lost answer, publish again under the same id: it has one effect.
    asyncio.run(publish(*sys.argv[1:5], event_id=sys.argv[5] if len(sys.argv) > 5 else str(uuid.uuid4())))
