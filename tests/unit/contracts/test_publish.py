"""The published schemas are the promise; the gate keeps edits of the models from breaking it."""

import copy
import json
from typing import Any

import jsonschema
import pytest

from contracts import publish
from contracts.credit.v1 import ReserveCredit
from contracts.registry import ENTRIES
from tests.support.shared_data import shared_data


def test_every_message_is_published_as_it_is() -> None:
    assert publish.problems() == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.wire_name)
def test_a_published_schema_names_dialect_and_id_and_is_valid(entry: Any) -> None:
    schema = publish.schema(entry.model)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == publish.DIALECT
    assert schema["$id"] == f"urn:tutti:schema:{entry.wire_name}"


def edited(change: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    before = publish.schema(ReserveCredit)
    after = copy.deepcopy(before)
    change(after)
    return before, after


def test_an_optional_field_may_be_added() -> None:
    before, after = edited(lambda schema: schema["properties"].update(note={"type": "string", "pattern": "^a", "default": ""}))

    assert not publish.incompatible(before, after)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a required field is added", lambda s: (s["properties"].update(why={"type": "string"}), s["required"].append("why"))),
        ("a field is removed", lambda s: (s["properties"].pop("buyer_id"), s["required"].remove("buyer_id"))),
        ("a type changes", lambda s: s["properties"].update(buyer_id={"type": "integer"})),
        ("a pattern changes", lambda s: s["properties"]["buyer_id"].update(pattern="^X")),
        ("a pattern is added", lambda s: s["$defs"]["Money"]["properties"]["amount_minor"].update(format="int32")),
        ("a limit is narrowed", lambda s: s["properties"]["buyer_id"].update(maxLength=3)),
        ("a limit is widened, which old consumers refuse", lambda s: s["properties"]["buyer_id"].update(maxLength=300)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_edit_that_somebody_in_flight_cannot_bear_is_refused(what: str, change: Any) -> None:
    before, after = edited(change)

    assert publish.incompatible(before, after), what


def test_the_gate_never_accepts_a_pair_that_others_found_incompatible() -> None:
    """Apicurio's pairs of schemas. jsoncompat reads draft 2020-12; pairs that only older drafts allow are counted and left out."""
    cases = json.loads(shared_data("schema-compat/jsonschema-compatibility-cases.json").read_text())["tests"]
    verdicts: dict[str, int] = {"agrees": 0, "stricter than needed": 0, "not of this dialect": 0}
    accepted_wrongly = []
    for case in cases:
        old, new = _without_dialect(case["original"]), _without_dialect(case["updated"])
        try:
            refused = publish.incompatible(old, new)
        except ValueError:
            verdicts["not of this dialect"] += 1
            continue
        if refused == (case["compatibility"] != "both"):
            verdicts["agrees"] += 1
        elif refused:
            verdicts["stricter than needed"] += 1
        elif not _only_adds_optional_properties(old, new):
            accepted_wrongly.append(case["id"])
    print(verdicts)

    assert accepted_wrongly == []
    assert verdicts["agrees"] >= 50


def _without_dialect(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_dialect(value) for key, value in node.items() if key != "$schema"}
    if isinstance(node, list):
        return [_without_dialect(value) for value in node]
    return node


def _only_adds_optional_properties(old: Any, new: Any) -> bool:
    added = set(new.get("properties", {})) - set(old.get("properties", {}))
    return bool(added) and not added & set(new.get("required", ()))
