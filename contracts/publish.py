"""The published form of the contracts: JSON Schema 2020-12 per wire name, checked in, and docs/messages.md.

`problems` compares the models with what is published. An edit that only adds what old consumers may ignore is published
anew. An edit is refused when old consumers could not read its messages, or when it could not read messages in flight. It has to become a
new version beside the old one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from contracts.message import Message
from contracts.registry import ENTRIES, UPCASTERS, Entry

PUBLISHED: Final = Path(__file__).parent / "published"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema(model: type[Message]) -> dict[str, Any]:
    """The model's JSON Schema with dialect and id. Receivers ignore unknown fields, so the schema does not forbid them."""
    return {
        "$schema": DIALECT,
        "$id": f"urn:tutti:schema:{model.wire_name}",
        **model.model_json_schema(mode="validation"),
    }


def description(entry: Entry) -> dict[str, Any]:
    """What the registry knows of a message, as JSON values."""
    return {
        "wire_name": entry.wire_name,
        "kind": "command" if entry.is_command else "event",
        "owner": entry.owner,
        "senders": list(entry.senders),
        "receivers": list(entry.receivers),
        "answers": {outcome: answer.wire_name for outcome, answer in entry.answers.items()},
        "upcast_to": UPCASTERS[entry.wire_name][0] if entry.wire_name in UPCASTERS else None,
        "meaning": " ".join((entry.model.__doc__ or "").split()),
    }


def text_of(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def write() -> None:
    """Publishes every schema and the message list as they are now."""
    PUBLISHED.mkdir(exist_ok=True)
    for entry in ENTRIES:
        (PUBLISHED / f"{entry.wire_name}.json").write_text(text_of(schema(entry.model)))


def problems() -> list[tuple[str, str]]:
    """(wire name, what is wrong and what to do) for each disagreement with what is published."""
    return list(_problems())


def _problems() -> Iterator[tuple[str, str]]:
    known = {entry.wire_name for entry in ENTRIES}
    for path in sorted(PUBLISHED.glob("*.json")):
        if path.stem not in known:
            yield path.stem, "was published and is gone; keep serving it until no such message is in flight"
    for entry in ENTRIES:
        path = PUBLISHED / f"{entry.wire_name}.json"
        if not path.exists():
            yield entry.wire_name, "is not published yet; `tutti contracts check --write` publishes it"
            continue
        published = json.loads(path.read_text())
        current = json.loads(text_of(schema(entry.model)))
        if published == current:
            continue
        if incompatible(published, current):
            yield (
                entry.wire_name,
                "changed in a way that running consumers or messages in flight cannot bear; make it a new version",
            )
        else:
            yield entry.wire_name, "changed compatibly; `tutti contracts check --write` publishes the change"


def incompatible(published: dict[str, Any], current: dict[str, Any]) -> bool:
    """Whether an old consumer could not read the new producer, or a new consumer not the old messages.

    Both roles are asked of jsoncompat. Adding an optional field is what tolerant readers allow, although a strict reading of
    JSON Schema calls it a narrowing (an old message might have used the name freely): such names are taken out before asking.
    """
    import jsoncompat

    if _constraints(published) != {path: value for path, value in _constraints(current).items() if _known(published, path)}:
        return True
    # jsoncompat takes `$id` for a reference to resolve; it is the same on both sides.
    old, new = (json.dumps(_without_id(side)) for side in (published, _without_additions(published, current)))
    return not (jsoncompat.check_compat(old, new, "serializer") and jsoncompat.check_compat(old, new, "deserializer"))


def _without_id(schema: Any) -> Any:
    return {key: value for key, value in schema.items() if key != "$id"} if isinstance(schema, dict) else schema


# Keywords that jsoncompat 0.3.1 does not weigh (tests/unit/contracts/test_publish.py): any change of them counts.
UNWEIGHED: Final = (
    "pattern",
    "format",
    "contentEncoding",
    "contentMediaType",
    "dependencies",
    "dependentSchemas",
    "dependentRequired",
)

Place = tuple[str, ...]


def _constraints(node: Any, path: Place = ()) -> dict[Place, str]:
    """Every unweighed keyword by its place in the schema."""
    found: dict[Place, str] = {}
    if isinstance(node, dict):
        for key, value in node.items():
            # Below `properties` and `$defs` the keys are names, not keywords.
            if key in UNWEIGHED and (not path or path[-1] not in ("properties", "$defs")):
                found[(*path, key)] = json.dumps(value, sort_keys=True)
            found |= _constraints(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            found |= _constraints(value, (*path, str(index)))
    return found


def _known(schema: Any, path: Place) -> bool:
    """Whether the schema has this place already; a keyword below a new property or definition narrows nothing."""
    node = schema
    for key in path[:-1]:
        if isinstance(node, dict) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            return False
    return True


def _without_additions(old: Any, new: Any) -> Any:
    """`new` without optional properties that `old` does not have, at every level."""
    if isinstance(old, dict) and isinstance(new, dict):
        result = {key: _without_additions(old.get(key), value) for key, value in new.items()}
        if isinstance(old.get("properties"), dict) and isinstance(new.get("properties"), dict):
            required = set(new.get("required", ()))
            result["properties"] = {
                name: value for name, value in result["properties"].items() if name in old["properties"] or name in required
            }
        return result
    return new


def message_list() -> str:
    """docs/messages.md: generated, and compared by a test."""
    lines = [
        "# Messages",
        "",
        "Generated from `contracts/registry.py` by `python -m contracts.publish`; do not edit. Schemas: `contracts/published/`.",
        "",
        "A **command** is sent to its one owner and answered once per operation. An **event** is a fact that anyone may hear.",
    ]
    for owner in sorted({entry.owner for entry in ENTRIES}):
        lines += ["", f"## {owner}", "", "| message | kind | from | to | answers | meaning |", "|---|---|---|---|---|---|"]
        for entry in ENTRIES:
            if entry.owner == owner:
                told = description(entry)
                answers = ", ".join(f"{outcome}: `{name}`" for outcome, name in told["answers"].items())
                lines.append(
                    f"| `{entry.wire_name}` | {told['kind']} | {', '.join(entry.senders)} | {', '.join(entry.receivers)} | {answers} | "
                    f"{told['meaning']} |"
                )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write()
    (Path(__file__).parent.parent / "docs" / "messages.md").write_text(message_list())
