"""The strict reading of an order, for HTTP and broker alike: no unknown fields, no floats, no hidden characters.

The contract's OrderBody is tolerant, as a receiver of our own events must be. What comes from outside is read by the
subclass here; its instances are OrderBody's, so that nothing is validated twice on the way into OrderAccepted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from contracts.orders.v1 import OrderAccepted, OrderBody, OrderNumber
from contracts.values import LINES_MAX, TEXT_LENGTH_MAX, Address, Buyer, OrderLine, Quantity
from services.ingress.domain import NaturalKey, Order

ERRORS_MAX: Final = 50
_ERRORS_LISTED_MAX: Final = 1000
_POINTER_LENGTH_MAX: Final = 200
# Controls (C0, DEL, C1), line and paragraph separators, marks and overrides of writing direction, the byte order
# mark: invisible in a document, and able to make it read as something else than what it says (Unicode TR 36).
_HIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_QUANTITY: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True)
class InputError:
    """One thing wrong with the order: where (JSON Pointer, RFC 6901) and what."""

    pointer: str
    detail: str


class InvalidOrder(ValueError):
    """The document is no order. Its text names places, never values."""

    def __init__(self, errors: tuple[InputError, ...]) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{error.pointer or '/'}: {error.detail}" for error in errors[:5]))


def _visible(value: str) -> str:
    if _HIDDEN.search(value):
        raise ValueError("has control characters, line breaks or marks of writing direction; send plain text")
    if not value.strip():
        raise ValueError("is blank")
    return value


def _plain_decimal(value: Any) -> Any:
    if isinstance(value, str) and not _QUANTITY.fullmatch(value):
        raise ValueError('must be a decimal such as "2.5": up to 9 digits, then up to 3 decimals')
    return value


def _plain_date(value: Any) -> Any:
    if value is not None and not (isinstance(value, str) and _DATE.fullmatch(value)):
        raise ValueError('must be a date such as "2026-12-01"')
    return value


def _array(most: int) -> BeforeValidator:
    # Checked before the items are: pydantic takes a mapping for a sequence of its keys, and reads every item of a too
    # long array.
    def check(value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError("must be a JSON array")
        if not 1 <= len(value) <= most:
            raise ValueError(f"has {len(value)} items; 1 to {most} are allowed")
        return value

    return BeforeValidator(check)


StrictText = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_LENGTH_MAX), AfterValidator(_visible)]


class BuyerInput(Buyer):
    model_config = ConfigDict(extra="forbid")

    name: StrictText


class AddressInput(Address):
    model_config = ConfigDict(extra="forbid")

    name: StrictText
    lines: Annotated[tuple[StrictText, ...], Field(min_length=1, max_length=4), _array(4)]
    city: StrictText
    postal_code: Annotated[str, StringConstraints(min_length=1, max_length=16), AfterValidator(_visible)]


class OrderLineInput(OrderLine):
    model_config = ConfigDict(extra="forbid")

    quantity: Annotated[Quantity, BeforeValidator(_plain_decimal)]


class OrderInput(OrderBody):
    """An order as a partner must write it (docs/public-face.md, section 2)."""

    model_config = ConfigDict(extra="forbid")

    order_number: Annotated[OrderNumber, AfterValidator(_visible)]
    buyer: BuyerInput
    ship_to: AddressInput
    requested_delivery: Annotated[date | None, BeforeValidator(_plain_date)] = None
    lines: Annotated[tuple[OrderLineInput, ...], Field(min_length=1, max_length=LINES_MAX), _array(LINES_MAX)]


def read_order(document: Mapping[str, Any]) -> OrderInput:
    """The order that a parsed JSON object describes. Raises InvalidOrder, with at most ERRORS_MAX errors."""
    try:
        return OrderInput.model_validate(document)
    except ValidationError as error:
        raise InvalidOrder(input_errors(error)) from None


# Where pydantic's own words speak of Python.
_WORDS: Final = {
    "extra_forbidden": "is not a field of an order; remove it or correct its spelling",
    "missing": "is missing",
    "model_type": "must be a JSON object",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "decimal_type": "must be a decimal string or an integer",
}


def input_errors(error: ValidationError) -> tuple[InputError, ...]:
    # Each listed error costs microseconds, and a body of 256 KiB has room for 40,000 of them.
    if error.error_count() > _ERRORS_LISTED_MAX:
        return (InputError("", f"has {error.error_count()} errors; compare it with /v1/openapi.json"),)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # An array whose items are wrong is reported as empty as well, which says nothing.
    found = [item for item in found if item["type"] != "too_short"] or found
    return tuple(InputError(_pointer(item), _detail(item)) for item in found[:ERRORS_MAX])


def _pointer(item: ErrorDetails) -> str:
    # Duplicate line numbers are found by comparing lines, so the error has no place of its own.
    if not item["loc"]:
        return "/lines"
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in item["loc"])
    return ("/" + "/".join(parts))[:_POINTER_LENGTH_MAX]


def _detail(item: ErrorDetails) -> str:
    return _WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")


@dataclass(frozen=True, slots=True)
class Application:
    """A request for an order to exist: what was asked, under which key, and the answer to store if it is accepted."""

    order: Order
    input: OrderInput = field(repr=False)
    key: str
    fingerprint: bytes
    answer: bytes = field(repr=False)

    def event(self) -> OrderAccepted:
        return order_accepted(self.order, self.input)


def order_accepted(order: Order, given: OrderInput) -> OrderAccepted:
    """The event of an accepted order. Its fields were validated when the input was read, and are not again."""
    fields = {name: getattr(given, name) for name in OrderBody.model_fields}
    return OrderAccepted.model_construct(
        order_id=order.order_id, partner_id=order.partner_id, accepted_at=order.accepted_at, **fields
    )


def natural_key(partner_id: str, given: OrderInput) -> NaturalKey:
    return NaturalKey(partner_id, given.order_number, given.buyer.id, given.revision)
