"""Values that every message shares: money, quantities, codes and identifiers, each with its limits.

Everything here is immutable and refuses what it cannot represent exactly. Sources of the rules: ISO 4217 (currencies and
their exponents), ISO 3166-1 alpha-2 (countries), UN/ECE Recommendation 20 (units; the table below is our selection).
"""

from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final

import iso3166
import iso4217
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

AMOUNT_MINOR_MAX = 10**15
QUANTITY_DIGITS_MAX = 12
QUANTITY_DECIMALS_MAX = 3
LINES_MAX = 200
TEXT_LENGTH_MAX = 200

# UN/ECE Recommendation 20, revision 17: the codes that orders of goods use. An order in another unit is refused by name.
UNITS = frozenset(
    {
        "C62", "EA", "H87", "PR", "DZN", "SET", "NPR",  # counted
        "KGM", "GRM", "TNE", "LBR", "ONZ", "MGM",  # mass
        "LTR", "MLT", "MTQ", "GLL", "HLT",  # volume
        "MTR", "CMT", "MMT", "FOT", "INH", "KMT",  # length
        "MTK", "FTK",  # area
        "XBX", "XCT", "XPK", "XPX", "XBG", "XPA", "XRO",  # packages (Recommendation 21 with the X prefix)
        "HUR", "DAY", "MON", "E48",  # services
    }
)  # fmt: skip


@cache
def currency_exponent(code: str) -> int:
    """How many decimals the currency has: EUR 2, JPY 0, KWD 3. Raises ValueError for a code that ISO 4217 lacks."""
    try:
        exponent = iso4217.Currency(code).exponent
    except ValueError:
        raise ValueError(f"{code!r} is not an ISO 4217 currency code, for example EUR") from None
    if exponent is None:
        raise ValueError(f"{code!r} has no minor unit and cannot be used for orders")
    return int(exponent)


def _currency(code: str) -> str:
    currency_exponent(code)
    return code


def _country(code: str) -> str:
    if code not in iso3166.countries_by_alpha2:
        raise ValueError(f"{code!r} is not an ISO 3166-1 alpha-2 country code, for example DE")
    return code


def _unit(code: str) -> str:
    if code not in UNITS:
        raise ValueError(f"{code!r} is not a known UN/ECE Recommendation 20 unit, for example C62 (one) or KGM")
    return code


def _no_float(value: Any) -> Any:
    if isinstance(value, bool | float):
        raise ValueError('must be a decimal string or an integer, never a float: write "2.5"')
    if isinstance(value, str) and len(value) > QUANTITY_DIGITS_MAX + 2:
        raise ValueError(f"has more than {QUANTITY_DIGITS_MAX} digits")
    return value


Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), AfterValidator(_currency)]
CountryCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$"), AfterValidator(_country)]
UnitCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{2,3}$"), AfterValidator(_unit)]

Quantity = Annotated[
    Decimal,
    BeforeValidator(_no_float),
    Field(gt=0, max_digits=QUANTITY_DIGITS_MAX, decimal_places=QUANTITY_DECIMALS_MAX, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d{1,9}(\.\d{1,3})?$"}, {"type": "integer"}]}),
]
"""How much of something: a decimal string or an integer on the wire, greater than zero, at most three decimals."""

StockLevel = Annotated[
    Decimal,
    BeforeValidator(_no_float),
    Field(ge=0, max_digits=QUANTITY_DIGITS_MAX, decimal_places=QUANTITY_DECIMALS_MAX, allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d{1,9}(\.\d{1,3})?$"}, {"type": "integer"}]}),
]
"""A quantity that may be zero."""

# Printable and without blanks at the ends: an id is copied into logs, URLs and search boxes.
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+\-]*$")]
OrderId = Annotated[str, StringConstraints(pattern=r"^ord_[0-9a-z]{20,40}$")]
BuyerId = Identifier
PartnerId = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[a-z0-9][a-z0-9\-]*$")]
WarehouseId = Identifier
Sku = Identifier
# Line breaks and other control characters have no place in a name, and would forge log lines and documents.
Text = Annotated[str, StringConstraints(min_length=1, max_length=TEXT_LENGTH_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")]
PERSONAL_MARK: Final = "x-personal"
Personal = Field(json_schema_extra={PERSONAL_MARK: True})
"""Marks what names or locates a person: masked in logs and in what operators see by default (contracts/personal.py)."""
PersonalText = Annotated[Text, Personal]
Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
Sequence = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
"""Position in the source's own order of facts; a fact that replaces state and is older than the last is ignored."""


class Value(BaseModel):
    """Base of structured values: frozen; unknown fields are ignored, since a newer sender may know more than we do."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null", hide_input_in_errors=True)


class Money(Value):
    """An exact amount in minor units (cents) of one currency.

    Arithmetic between currencies raises ValueError; there is no rounding anywhere in this class.
    """

    amount_minor: Annotated[int, Field(strict=True, ge=-AMOUNT_MINOR_MAX, le=AMOUNT_MINOR_MAX)]
    currency: Currency

    @classmethod
    def zero(cls, currency: str) -> "Money":
        return cls(amount_minor=0, currency=currency)

    def __add__(self, other: "Money") -> "Money":
        return Money(amount_minor=self.amount_minor + self._same(other).amount_minor, currency=self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(amount_minor=self.amount_minor - self._same(other).amount_minor, currency=self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.amount_minor < self._same(other).amount_minor

    def __le__(self, other: "Money") -> bool:
        return self.amount_minor <= self._same(other).amount_minor

    def _same(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise ValueError(f"{self.currency} and {other.currency} cannot be combined without a rate")
        return other

    def __str__(self) -> str:
        exponent = currency_exponent(self.currency)
        return f"{Decimal(self.amount_minor).scaleb(-exponent):.{exponent}f} {self.currency}"


class Buyer(Value):
    """Who pays: the buyer's id with us and the name to be screened."""

    id: BuyerId
    name: PersonalText


class Address(Value):
    """Where goods go."""

    name: PersonalText
    lines: Annotated[tuple[PersonalText, ...], Field(min_length=1, max_length=4)]
    city: PersonalText
    postal_code: Annotated[
        str,
        StringConstraints(min_length=1, max_length=16, pattern=r"^[^\x00-\x1f\x7f]*$"),
        Personal,
    ]
    country: CountryCode


class OrderLine(Value):
    """One position of an order; `line` is the partner's own numbering and unique within the order."""

    line: Annotated[str, StringConstraints(min_length=1, max_length=20, pattern=r"^[A-Za-z0-9._\-]+$")]
    sku: Sku
    quantity: Quantity
    unit: UnitCode


class Allocation(Value):
    """A part of a line that one warehouse has set aside."""

    line: str
    sku: Sku
    warehouse: WarehouseId
    country: CountryCode
    quantity: Quantity
    weight_grams: Count = 0


class Shipment(Value):
    """One parcel or pallet on its way: which warehouse sends it with which carrier, and the number to follow it by."""

    warehouse: WarehouseId
    carrier: Identifier
    tracking: Text


class Reason(Value):
    """Why the answer is no: a code for programs and a sentence for people."""

    code: Annotated[str, StringConstraints(pattern=r"^[a-z0-9\-]{1,60}$")]
    detail: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
