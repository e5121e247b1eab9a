import copy
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from contracts.orders.v1 import OrderAccepted, OrderBody
from services.ingress.domain import accepted
from services.ingress.http.openapi import ORDER_EXAMPLE
from services.ingress.intake import ERRORS_MAX, InvalidOrder, natural_key, order_accepted, read_order


def document(path: str = "", value: Any = None) -> dict[str, Any]:
    """The example with one value replaced; `path` is dotted."""
    order = copy.deepcopy(ORDER_EXAMPLE)
    *parents, last = path.split(".")
    place: Any = order
    for parent in parents:
        place = place[int(parent) if parent.isdigit() else parent]
    if path:
        place[int(last) if last.isdigit() else last] = value
    return order


def pointers(order: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidOrder) as raised:
        read_order(order)
    return [error.pointer for error in raised.value.errors]


def test_an_order_is_read_as_the_contract_would() -> None:
    given = read_order(document())

    assert OrderBody.model_validate(document()).model_dump() == given.model_dump()


@pytest.mark.parametrize("quantity", ["3", 3, "2.5", "0.001", "999999999.999", 999_999_999])
def test_a_quantity_is_a_decimal_string_or_an_integer(quantity: Any) -> None:
    assert str(read_order(document("lines.0.quantity", quantity)).lines[0].quantity) == str(quantity)


@pytest.mark.parametrize(
    "quantity",
    [
        2.5,
        3.0,
        True,
        None,
        [],
        {},
        "",
        " 3",
        "3 ",
        "+3",
        "-3",
        "1e3",
        "0x1",
        "1_0",
        "\u0663",
        "NaN",
        "Infinity",
        ".5",
        "5.",
        "1.2345",
        "0",
        "0.000",
        0,
        -1,
        10**9,
        10**12,
        10**400,
        "9999999999999",
    ],
)
def test_nothing_else_is_a_quantity(quantity: Any) -> None:
    assert pointers(document("lines.0.quantity", quantity)) == ["/lines/0/quantity"]


@pytest.mark.parametrize(
    "path", ["order_number", "buyer.name", "ship_to.name", "ship_to.city", "ship_to.lines.0", "ship_to.postal_code"]
)
@pytest.mark.parametrize(
    "character", ["\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\u2028", "\u202e", "\u2066", "\u200f", "\ufeff"]
)
def test_no_text_hides_a_character(path: str, character: str) -> None:
    assert pointers(document(path, f"a{character}b")) == ["/" + path.replace(".", "/")]


@pytest.mark.parametrize("path", ["buyer.name", "ship_to.city", "ship_to.lines.0", "ship_to.postal_code"])
def test_no_text_is_blank_or_endless(path: str) -> None:
    for text in ("", "   ", "x" * 201):
        assert pointers(document(path, text)) == ["/" + path.replace(".", "/")]


def test_names_of_the_world_are_welcome() -> None:
    for name in ("Łódź Sp. z o.o.", "株式会社", "شركة\u200cما", "O'Neill & Søn", "🚚 GmbH"):
        assert read_order(document("buyer.name", name)).buyer.name == name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("surprise", 1),
        ("buyer.surprise", 1),
        ("ship_to.surprise", 1),
        ("lines.0.surprise", 1),
        ("status", "completed"),
        ("partner_id", "globex"),
        ("revision", -1),
        ("revision", 1.0),
        ("revision", "0"),
        ("revision", True),
        ("currency", "eur"),
        ("currency", "XXX"),
        ("ship_to.country", "UK"),
        ("lines.0.unit", "ZZ"),
        ("priority", "asap"),
        ("priority", None),
        ("requested_delivery", "2026-12-01T00:00:00"),
        ("requested_delivery", 1764547200),
        ("requested_delivery", "2026-02-30"),
        ("buyer", []),
        ("ship_to.lines", {"Hafenstr. 1": 1}),
        ("ship_to.lines", []),
        ("ship_to.lines", ["x"] * 5),
        ("lines", []),
        ("lines", {}),
        ("lines.0", None),
        ("buyer.id", "C 17"),
        ("lines.0.sku", "../etc"),
        ("order_number", "x" * 65),
    ],
)
def test_what_does_not_fit_is_pointed_at(path: str, value: Any) -> None:
    assert pointers(document(path, value)) == ["/" + path.replace(".", "/")]


@pytest.mark.parametrize("name", ["order_number", "revision", "buyer", "ship_to", "currency", "lines"])
def test_what_is_required_may_not_be_missing(name: str) -> None:
    order = document()
    del order[name]

    assert pointers(order) == [f"/{name}"]


def test_what_is_optional_may_be_missing() -> None:
    order = document()
    del order["requested_delivery"]
    del order["priority"]

    given = read_order(order)

    assert (given.requested_delivery, given.priority) == (None, "normal")


def test_two_lines_of_one_number_are_refused() -> None:
    assert pointers(document("lines", ORDER_EXAMPLE["lines"] * 2)) == ["/lines"]


def test_a_pointer_escapes_what_it_must() -> None:
    assert pointers(document("a/b~c", 1)) == ["/a~1b~0c"]


def test_a_flood_of_errors_is_cut() -> None:
    some = {**document(), **{f"k{n}": 1 for n in range(500)}}
    many = {**document(), **{f"k{n}": 1 for n in range(5000)}}

    assert len(pointers(some)) == ERRORS_MAX
    assert pointers(many) == [""]


def test_errors_never_repeat_what_was_sent() -> None:
    with pytest.raises(InvalidOrder) as raised:
        read_order(document("buyer.name", "Secret\nName"))

    assert "Secret" not in str(raised.value)


def test_the_event_of_an_order_is_what_validation_would_have_made() -> None:
    given = read_order(document())
    now = datetime(2026, 3, 1, tzinfo=UTC)
    order = accepted("ord_" + "0" * 26, "saga", natural_key("acme", given), now, timedelta(seconds=1))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sent = from_json(to_json(order_accepted(order, given)))

    expected = OrderAccepted.model_validate({**document(), "order_id": order.order_id, "partner_id": "acme", "accepted_at": now})
    assert sent == expected.model_dump(mode="json")
