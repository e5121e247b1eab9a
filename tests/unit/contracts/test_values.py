"""Values refuse what they cannot represent exactly, and say how it should have been written."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.values import CountryCode, Currency, Money, OrderId, Quantity, UnitCode, currency_exponent

quantity = TypeAdapter[Decimal](Quantity)


@pytest.mark.parametrize(("given", "expected"), [("3", Decimal(3)), ("0.125", Decimal("0.125")), (7, Decimal(7))])
def test_a_quantity_is_a_decimal_string_or_an_integer(given: Any, expected: Decimal) -> None:
    assert quantity.validate_python(given) == expected


@pytest.mark.parametrize("given", [0.1, 3.0, True, "0", "-1", "1.2345", "NaN", "Infinity", "1e400", "9" * 30, "", None, [], {}])
def test_a_quantity_is_nothing_else(given: Any) -> None:
    with pytest.raises(ValidationError):
        quantity.validate_python(given)


def test_money_knows_each_currency_s_exponent() -> None:
    assert [currency_exponent(code) for code in ("EUR", "JPY", "KWD")] == [2, 0, 3]
    assert str(Money(amount_minor=1234, currency="KWD")) == "1.234 KWD"
    assert str(Money(amount_minor=-5, currency="EUR")) == "-0.05 EUR"


@pytest.mark.parametrize("amount", [1.0, "1", True, 10**16, None])
def test_money_is_a_bounded_integer_of_minor_units(amount: Any) -> None:
    with pytest.raises(ValidationError):
        Money(amount_minor=amount, currency="EUR")


def test_money_of_two_currencies_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="EUR and USD"):
        Money(amount_minor=1, currency="EUR") + Money(amount_minor=1, currency="USD")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Currency, "EUR", ["eur", "EU", "ZZZ", "XXX", ""]),
        (CountryCode, "DE", ["de", "XX", "GER", ""]),
        (UnitCode, "C62", ["pieces", "ZZZ", ""]),
        (OrderId, "ord_" + "0" * 26, ["ord_", "x", "ORD_" + "0" * 26, "ord_" + "0" * 26 + "\n"]),
    ],
)
def test_codes_and_ids_are_those_of_their_standard(kind: Any, good: str, bad: list[str]) -> None:
    adapter = TypeAdapter(kind)

    assert adapter.validate_python(good) == good
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)
