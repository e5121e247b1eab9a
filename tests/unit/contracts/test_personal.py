"""What is personal is said by the models alone."""

from typing import Annotated, ClassVar

import pytest

from contracts.message import Event
from contracts.personal import fields_of, personal_fields
from contracts.values import Address, Count, Personal, PersonalText, Sku, Text, Value


class Contact(Value):
    """Somebody to be called."""

    nickname: PersonalText
    phone: Annotated[int, Personal]
    extension: Count | None = None


class Visited(Event):
    """A message of tomorrow."""

    wire_name: ClassVar[str] = "sales.visited.v1"

    sku: Sku
    guests: tuple[Contact, ...]
    host: Contact | None = None
    aliases: tuple[PersonalText, ...] | None = None
    notes: Annotated[dict[str, str], Personal]
    birthdays: dict[str, PersonalText]
    nested: "Visited | None" = None


def test_the_contracts_of_today() -> None:
    known = personal_fields()

    assert known.whole == {"name", "city", "postal_code", "party", "listed"}
    assert {"lines", "ship_to", "buyer", "parties", "best_match", "matches", "address"} <= known.texts
    assert not {"sku", "order_id", "buyer_id", "country", "type", "queue", "reason"} & (known.whole | known.texts)


def test_a_field_that_a_new_message_marks_is_personal_without_another_line() -> None:
    known = fields_of([Visited])

    assert known.whole == {"nickname", "phone", "aliases", "notes", "birthdays"}
    assert known.texts == {"guests", "host", "nested", "contact", "visited"}


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("nickname", "Jane", True), ("Nickname", "Jane", True), ("nickname", None, False), ("phone", 49301234, True),
        ("notes", {"a": "b"}, True), ("guests", "Jane", True), ("guests", 3, False), ("guests", {"nickname": "Jane"}, False),
        ("sku", "P-1", False), ("nicknames", "P-1", False), ("extension", 7, False),
        ("work_phone", 49301234, True),
        ("first_nickname", "Jane", True),
        ("invited_guests", "Jane", True),
        ("telephone", "1", False),
    ],
)  # fmt: skip
def test_a_value_is_hidden_by_its_name(name: str, value: object, hidden: bool) -> None:
    assert fields_of([Visited]).hides(name, value) is hidden


def test_a_qualified_name_is_as_personal_as_its_last_words_but_what_has_a_name_is_not_yet_a_person() -> None:
    hides = personal_fields().hides

    assert all(hides(name, "x") for name in ("delivery_city", "mailing_postal_code", "email_address", "name"))
    assert not any(hides(name, "x") for name in ("queue_name", "wire_name", "capacity"))


def test_a_name_under_which_another_model_keeps_a_structure_hides_texts_only() -> None:
    class Bill(Value):
        """Its lines are no address's."""

        lines: tuple[Contact, ...]

    class Label(Value):
        """Without a structure of that name everything under it is personal."""

        lines: tuple[PersonalText, ...]
        text: Text

    assert fields_of([Address]).hides("lines", {"a": 1})
    assert not fields_of([Label, Bill]).hides("lines", {"a": 1})
    assert fields_of([Label, Bill]).hides("lines", "Hafenstr. 1")
