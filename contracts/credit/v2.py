"""Version 2 of what is said to credit: a changed limit now says why. Version 1 is still served, by the upcaster below."""

from typing import ClassVar

from contracts.credit import v1
from contracts.message import Event, Json
from contracts.values import BuyerId, Money, Sequence, Text


class LimitChanged(Event):
    """The buyer's limit is now this, for this reason. Replaces the limit before it; an older `sequence` is ignored."""

    wire_name: ClassVar[str] = "credit.limit-changed.v2"
    subject_field: ClassVar[str] = "buyer_id"

    buyer_id: BuyerId
    limit: Money
    sequence: Sequence
    reason: Text


def limit_changed_from_v1(data: Json) -> Json:
    """Version 1 gave no reason; the audit shows that it was not stated rather than inventing one."""
    return {**data, "reason": "not stated (version 1)"}


MESSAGES = (LimitChanged,)
UPCASTERS = {v1.LimitChanged.wire_name: (LimitChanged.wire_name, limit_changed_from_v1)}
