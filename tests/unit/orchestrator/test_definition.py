"""Loading definitions: every finding, with its place and its remedy; and what comes out of a good one."""

import json
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrator.definition import WORKFLOWS, content_hash, load, load_all, load_file
from orchestrator.language import json_schema, json_schema_text, parse_duration
from orchestrator.source import DefinitionError, Finding, read

GOOD = (WORKFLOWS / "order-fulfillment" / "v1.yaml").read_text()


def findings(text: str) -> list[Finding]:
    with pytest.raises(DefinitionError) as found:
        load(text, "x.yaml")
    return list(found.value.findings)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


CASES: dict[str, tuple[str, str, str]] = {
    "unknown message": (changed("pricing.price-order.v1", "pricing.price-ordr.v1"), "there is no message", "did you mean"),
    "an event where a command belongs": (
        changed("command: pricing.price-order.v1", "command: pricing.order-priced.v1"),
        "is an event",
        "under `emit`",
    ),
    "a message that never arrives": (
        changed("{on: orders.order-accepted.v1}", "{on: orders.order-completed.v1}"),
        "never reaches the orchestrator",
        "receivers",
    ),
    "a command that nobody handles": (
        changed("command: pricing.price-order.v1", "command: procurement.order-goods.v1"),
        "nobody handles",
        "deploy",
    ),
    "unknown field in a mapping": (
        changed("buyer_id: order.buyer.id, amount", "buyer: order.buyer.id, amount"),
        "has no field `buyer`",
        "buyer_id",
    ),
    "missing field in a mapping": (
        changed("{buyer_id: order.buyer.id, amount: price.total}", "{buyer_id: order.buyer.id}"),
        "needs `amount`",
        "`with`",
    ),
    "unknown field in an expression": (
        changed("order.buyer.id, amount", "order.buyer.ident, amount"),
        "undefined field 'ident'",
        "it has id, name",
    ),
    "unknown name in an expression": (
        changed("amount: price.total", "amount: prize.total"),
        "undeclared reference",
        "known here",
    ),
    "a value of the wrong type": (changed("amount: price.total", "amount: order.buyer.id"), "does not fit `amount`", "change"),
    "a structure of the wrong kind": (
        changed("ship_to: order.ship_to}", "ship_to: order.buyer}"),
        "does not fit `ship_to`",
        "change",
    ),
    "null where a value must be": (
        changed("priority: order.priority", "priority: order.requested_delivery"),
        "may be null",
        "change",
    ),
    "an expression that is no expression": (changed("amount: price.total", "amount: price.total ++"), "Syntax error", ""),
    "a name that is not known yet": (
        changed("    after: [price]\n", ""),
        "undeclared reference to 'price",
        "add it to `after`",
    ),
    "an answer that the command cannot give": (
        changed("done: pricing.order-priced.v1", "done: credit.credit-reserved.v1"),
        "is never answered with credit.credit-reserved.v1",
        "",
    ),
    "a missing answer": (
        changed(", refused: pricing.order-not-priced.v1", ""),
        "nothing is said for the answer pricing.order-not-priced.v1",
        "",
    ),
    "a refusal taken for success": (
        changed(
            "{done: pricing.order-priced.v1, refused: pricing.order-not-priced.v1}",
            "{done: [pricing.order-priced.v1, pricing.order-not-priced.v1]}",
        ),
        "is a refusal",
        "under `refused`",
    ),
    "no answer that means done": (
        changed("{done: pricing.order-priced.v1,", "{priced: pricing.order-priced.v1,"),
        "no answer means `done`",
        "",
    ),
    "a cycle": (
        changed("  - id: price\n", "  - id: price\n    after: [reserve-credit]\n"),
        "wait for each other: price -> reserve-credit -> price",
        "take one",
    ),
    "a step behind a cycle": (
        changed("  - id: price\n", "  - id: price\n    after: [reserve-credit]\n"),
        "`ship` can never start",
        "resolve the cycle",
    ),
    "a step that waits for nobody known": (
        changed("after: [price]", "after: [prize]"),
        "there is no step `prize`",
        "did you mean `price`",
    ),
    "a condition that is always false": (
        changed("  - id: reserve-stock\n", "  - id: reserve-stock\n    when: 1 > 2\n"),
        "can never start",
        "take the step out",
    ),
    "a condition that is no condition": (
        changed("  - id: reserve-stock\n", "  - id: reserve-stock\n    when: order.priority\n"),
        "true or false",
        "compare",
    ),
    "a field of a step that may have been skipped": (
        changed("  - id: reserve-stock\n", "  - id: reserve-stock\n    when: order.priority == 'high'\n"),
        "`reserve_stock.allocations` may not be there",
        "has(",
    ),
    "no undo and no reason": (
        changed("    undo: none\n    because: a price changes nothing\n", ""),
        "does not say how it is undone",
        "`undo: none`",
    ),
    "no undo without a reason": (changed("    because: a price changes nothing\n", ""), "has no undo and no reason", "because"),
    "an undo of another owner": (
        changed(
            "{command: credit.release-credit.v1, answers: {done: credit.credit-released.v1}",
            "{command: inventory.release-stock.v1, answers: {done: inventory.stock-released.v1}",
        ),
        "belongs to inventory, but credit.reserve-credit.v1 to credit",
        "only the owner of the do knows",
    ),
    "an irreversible step before a refusable one": (
        changed("after: [reserve-credit, reserve-stock, screen-buyer]", "after: [reserve-credit, reserve-stock]"),
        "the irreversible step `ship` may run before `screen-buyer`",
        "add `screen-buyer` to the `after` of `ship`",
    ),
    "two pivots": (changed("  - id: price\n", "  - id: price\n    pivot: true\n"), "there is a pivot already", "keep one"),
    "two steps of one name": (changed("id: reserve-stock", "id: price"), "there is another step `price`", "its own id"),
    "a name that CEL keeps": (changed("id: screen-buyer", "id: in"), "belongs to CEL", "another id"),
    "a word of a later language": (
        changed("input: order\n", "input: order\nsla: {within: PT10M}\n"),
        "`sla` is no word of the language",
        "take it out",
    ),
    "a missing word": (
        changed("describe: Takes a partner's order to shipment, or takes everything back.\n", ""),
        "`describe` is missing",
        "add it",
    ),
    "a command without a timeout": (changed("    timeout: PT30S\n", ""), "could wait for ever", ""),
    "a month": (changed("PT30S", "P1M"), "no ISO 8601 duration", ""),
    "a retry that never comes": (changed("budget: PT3M", "budget: PT1S"), "over before the first pause", "raise"),
    "a key that stands twice": (changed("version: 1\n", "version: 1\nversion: 1\n"), "stands here twice", "keep one"),
    "an alias": (
        changed("with: {partner_id: order.partner_id", "with: &x {partner_id: order.partner_id") + "x: *x\n",
        "alias",
        "write the value out",
    ),
    "no YAML": (GOOD + "\n  - ]", "not YAML", "mend"),
    "nothing": ("", "empty", "begin with"),
}


@pytest.mark.parametrize(("text", "problem", "remedy"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_found_with_a_remedy(text: str, problem: str, remedy: str) -> None:
    found = [finding for finding in findings(text) if problem in finding.problem]

    assert found, "\n".join(map(str, findings(text)))
    assert remedy in found[0].remedy
    assert found[0].remedy


def test_every_finding_is_told_at_once_and_in_the_order_of_the_text() -> None:
    text = GOOD.replace("order.buyer.id, amount", "order.buyer.ident, amount").replace("after: [price]", "after: [prize]")

    found = findings(text)
    assert len(found) >= 3
    assert [finding.line for finding in found] == sorted(finding.line for finding in found)


def test_a_finding_points_at_the_very_place() -> None:
    text = changed("amount: price.total", "amount: price.totl")
    line = next(number for number, content in enumerate(text.splitlines(), start=1) if "price.totl" in content)
    column = text.splitlines()[line - 1].index(".totl") + 1

    assert str(findings(text)[0]).startswith(f"x.yaml:{line}:{column}: ")


def test_a_finding_within_quotes_points_behind_them() -> None:
    text = changed('"[order.buyer, order.ship_to]"', '"[order.buyer, order.shop_to]"')
    line = next(number for number, content in enumerate(text.splitlines(), start=1) if "shop_to" in content)

    assert (findings(text)[0].line, findings(text)[0].column) == (line, text.splitlines()[line - 1].index(".shop_to") + 1)


def test_a_refusable_step_beyond_the_pivot_is_found() -> None:
    extra = """  - id: look-again
    after: [ship]
    command: pricing.price-order.v1
    with: {partner_id: order.partner_id, currency: order.currency, lines: order.lines}
    answers: {done: pricing.order-priced.v1, refused: pricing.order-not-priced.v1}
    timeout: PT30S

finish:
"""
    found = findings(changed("\nfinish:\n", extra))

    assert any("can be refused after the irreversible step `ship`" in finding.problem for finding in found)


def test_what_ships_loads_and_knows_its_order() -> None:
    workflow = load_all()[0]

    assert (workflow.name, workflow.version) == ("order-fulfillment", 1)
    assert workflow.by_id["price"].dependents == {"reserve-credit", "ship"}
    assert workflow.pivot is workflow.by_id["ship"]
    assert workflow.by_id["screen-buyer"].answers["compliance.review-needed.v1"] == "refused"
    for step in workflow.steps:
        position = workflow.steps.index(step)
        assert set(step.after) <= {earlier.id for earlier in workflow.steps[:position]}


def test_the_subject_is_passed_on_and_an_undo_gets_what_its_do_got() -> None:
    workflow = load_all()[0]
    credit = workflow.by_id["reserve-credit"]

    assert dict(credit.template.fields)["order_id"].text == "order.order_id"
    assert credit.undo is not None
    assert {name: field.text for name, field in credit.undo.template.fields} == {
        "order_id": "order.order_id",
        "buyer_id": "order.buyer.id",
        "amount": "price.total",
    }


def test_the_hash_is_of_what_a_definition_says_not_of_how_it_is_written() -> None:
    commented = load("# a remark\n" + GOOD)
    meant = load(changed("timeout: PT30S", "timeout: PT31S"))

    assert commented.content_hash == load(GOOD).content_hash
    assert meant.content_hash != load(GOOD).content_hash
    assert content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})


def test_a_file_must_stand_where_it_says(tmp_path: Path) -> None:
    file = tmp_path / "order-fulfillment" / "v2.yaml"
    file.parent.mkdir()
    file.write_text(GOOD)

    with pytest.raises(DefinitionError, match=r"move it to order-fulfillment/v1\.yaml"):
        load_file(file)


def test_on_and_dates_are_words_in_a_definition() -> None:
    assert read("on: yes\nday: 2026-12-01\nnumber: 017\ncount: 3\nflag: true\n", "x").document == {
        "on": "yes",
        "day": "2026-12-01",
        "number": "017",
        "count": 3,
        "flag": True,
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT30S", 30), ("PT1.5S", 1.5), ("PT5M", 300), ("PT8H", 28800), ("P2D", 172800), ("P1W", 604800), ("P1DT1H", 90000)],
)
def test_durations_are_iso_8601(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "P", "PT", "30", 30, "P1M", "P1Y", "-PT5S", "PT0S", "P9999D", "PT5", "pt5s", None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_duration(text)


def test_the_published_schema_is_that_of_the_models() -> None:
    published = (WORKFLOWS / "schema.json").read_text()

    assert published == json_schema_text(), "run: python -m orchestrator.language > orchestrator/workflows/schema.json"


def test_what_ships_is_valid_by_the_published_schema_and_what_is_not_is_not() -> None:
    document = read(GOOD, "x").document

    jsonschema.validate(document, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "sla": {}}, json_schema())
    assert yaml.safe_load(json.dumps(json_schema()))["$id"].endswith("workflow-v1.json")
