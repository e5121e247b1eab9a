"""CEL: what is found when an expression is compiled, and what it gives when it is evaluated."""

import pytest

from contracts.orders.v1 import OrderAccepted
from contracts.pricing.v1 import OrderPriced
from orchestrator.expressions import ExpressionError, Language, Path, Program
from orchestrator.names import EvaluationError, Expression, Names
from tests.scenarios.saga_suite.samples import SAMPLES

TYPES = {"order": OrderAccepted, "price": OrderPriced}
NAMES = Names({"order": SAMPLES["orders.order-accepted.v1"], "price": SAMPLES["pricing.order-priced.v1"]})


def compiled(text: str) -> Expression:
    return Language(frozenset(TYPES)).compile(text, TYPES)


@pytest.mark.parametrize(
    ("text", "problem", "column"),
    [
        ("order.colour", "undefined field 'colour'", 5),
        ("odrer.buyer", "undeclared reference to 'odrer", 5),
        ("order.lines.map(line, line.weight)", "undefined field 'weight'", 26),
        ("price.total.amount_minor > 5.0", "no matching overload", 25),
        ("order.buyer.id + 1", "no matching overload", 15),
        ("size(order.lines) >", "mismatched input", 19),
    ],
)
def test_a_wrong_name_type_or_word_is_found_with_its_place(text: str, problem: str, column: int) -> None:
    with pytest.raises(ExpressionError, match=problem) as found:
        compiled(text)

    assert (found.value.line, found.value.column) == (1, column)


@pytest.mark.parametrize("text", ["", "   ", "x" * 2001])
def test_an_empty_or_endless_expression_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compiled(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("order.lines[0].quantity", "3"),
        ("order.requested_delivery == null", True),
        ("price.total.amount_minor / 2", 6172),
        ("size(order.lines) > 0 && order.currency == 'EUR'", True),
        ("[order.buyer.id, order.partner_id]", ["C-17", "acme"]),
        ("{'amount_minor': price.total.amount_minor, 'currency': order.currency}", {"amount_minor": 12345, "currency": "EUR"}),
        ("order.lines.map(line, line.sku)", ["P-100"]),
        ("has(price.total) ? price.total.currency : 'none'", "EUR"),
    ],
)
def test_values_come_back_as_json(text: str, value: object) -> None:
    assert compiled(text).evaluate(NAMES) == value


def test_quantities_and_moments_are_strings_and_money_whole_numbers() -> None:
    assert compiled("order.lines[0].quantity").type_name == "STRING"
    assert compiled("order.accepted_at").type_name == "STRING"
    assert compiled("price.total.amount_minor").type_name == "INT"


@pytest.mark.parametrize(
    "text", ["order.buyer.id", "order.lines", "order.requested_delivery", "price.total", "order.ship_to.lines"]
)
def test_a_plain_path_means_the_same_with_and_without_cel(text: str) -> None:
    path, program = compiled(text), compiled(f"({text})")

    assert isinstance(path, Path)
    assert isinstance(program, Program)
    assert path.evaluate(NAMES) == program.evaluate(NAMES)
    assert path.type_name == program.type_name


@pytest.mark.parametrize(
    "values", [{}, {"price": {}}, {"price": {"total": None}}, {"price": {"total": 5}}, {"price": {"total": []}}]
)
def test_a_missing_field_is_an_error_with_and_without_cel(values: dict[str, object]) -> None:
    for text in ("price.total.currency", "(price.total.currency)"):
        with pytest.raises(EvaluationError, match=r"price\.total\.currency"):
            compiled(text).evaluate(Names(values))  # type: ignore[arg-type]  # deliberately not what was declared


def test_evaluations_of_one_moment_share_their_view_of_the_values() -> None:
    language = Language(frozenset(TYPES))
    first, second = (language.compile(text, TYPES) for text in ("size(order.lines)", "size(price.lines)"))
    assert isinstance(first, Program)
    names = Names(NAMES.values)

    first.evaluate(names)
    before = first.activation(names)
    second.evaluate(names)

    assert isinstance(second, Program)
    assert second.activation(names) is before
