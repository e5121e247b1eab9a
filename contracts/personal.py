"""What is personal: values that never stand in a log, and that an operator sees only after saying why.

The models say it, each field for itself, by the mark `Personal` of values.py. The names are taken from the models, so that a field
that is marked tomorrow is hidden without another line. Values are hidden by the name that they stand under, wherever that is: a
message that could not be handled says least reliably what it is, and a log knows no messages at all.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contracts import values
from contracts.registry import ENTRIES
from contracts.values import PERSONAL_MARK, Value

MASK: Final = "***"

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PersonalFields:
    """Names in lower case.

    Under a name of `whole` every value is personal. A name of `texts` has a structure with something personal in it, such as `ship_to`, or
    personal texts in one model and structures in another: `lines` are those of an address and those of an order. Under such a name a text
    is personal, a structure has names of its own, and a number is a count.
    """

    whole: frozenset[str]
    texts: frozenset[str]

    def hides(self, name: str, value: object) -> bool:
        """Whether the value under this name is personal. A list is asked for item by item."""
        known = name.lower()
        return any(
            (one in self.whole and value is not None) or (one in self.texts and isinstance(value, str))
            for one in (known, *_unqualified(known))
        )


def _unqualified(name: str) -> Iterator[str]:
    """`postal_code` and `code` of `delivery_postal_code`. Of a qualified `name` nothing: a queue and a thread have names too."""
    _, _, rest = name.partition("_")
    while rest and rest != "name":
        yield rest
        _, _, rest = rest.partition("_")


@cache
def personal_fields() -> PersonalFields:
    """Those of every registered message and every shared value."""
    shared = [one for one in vars(values).values() if isinstance(one, type) and issubclass(one, Value)]
    return fields_of([*(entry.model for entry in ENTRIES), *shared])


def fields_of(models: Iterable[type[BaseModel]]) -> PersonalFields:
    """What is personal in these models and in all that they are made of."""
    marked: set[str] = set()
    structured: set[str] = set()
    texts: set[str] = set()
    _, schema = models_json_schema([(model, "validation") for model in models])
    definitions: Mapping[str, Schema] = schema.get("$defs", {})
    for structure in definitions.values():
        if _holds_personal(structure, definitions):
            # A variable is often called like its class: `address`, for example.
            texts.add(str(structure.get("title")).lower())
        for name, described in structure.get("properties", {}).items():
            parts = list(_parts(described, definitions))
            if any(part.get(PERSONAL_MARK) for part in parts):
                marked.add(name.lower())
            elif any(part.get("type") == "object" for part in parts):
                structured.add(name.lower())
                if any(_holds_personal(part, definitions) for part in parts):
                    texts.add(name.lower())
    return PersonalFields(whole=frozenset(marked - structured), texts=frozenset(texts | (marked & structured)))


def _holds_personal(structure: Schema, definitions: Mapping[str, Schema], above: tuple[Schema, ...] = ()) -> bool:
    """Whether a field of it is personal, or one of a structure in it."""
    if any(structure is one for one in above):
        return False
    parts = (part for described in structure.get("properties", {}).values() for part in _parts(described, definitions))
    return any(part.get(PERSONAL_MARK) or _holds_personal(part, definitions, (*above, structure)) for part in parts)


def _parts(described: Schema, definitions: Mapping[str, Schema], above: tuple[Schema, ...] = ()) -> Iterator[Schema]:
    """A field's schema and all that its value may be: items, alternatives, and the structures that it refers to."""
    if any(described is one for one in above):
        return
    yield described
    inner = [described[word] for word in ("items", "additionalProperties") if isinstance(described.get(word), Mapping)]
    inner += [one for word in ("anyOf", "oneOf", "allOf", "prefixItems") for one in described.get(word, ())]
    if "$ref" in described:
        inner.append(definitions[described["$ref"].rsplit("/", 1)[-1]])
    for part in inner:
        yield from _parts(part, definitions, (*above, described))
