"""The name of a step of a saga is read as it was written, and any text is read as something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import operation_id
from contracts.operation_id import OperationId

SAGAS = st.text(min_size=1).filter(lambda text: ":" not in text)
STEPS = st.text(min_size=1).filter(lambda text: "/" not in text)


@given(SAGAS, STEPS, st.none() | st.text(min_size=1))
def test_what_was_put_together_is_taken_apart_again(saga: str, step: str, item: str | None) -> None:
    assert operation_id.split(operation_id.of(saga, step, item)) == (saga, step, item)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, OperationId("", "")),
        ("", OperationId("", "")),
        ("0191", OperationId("0191", "")),
        ("0191:ship", OperationId("0191", "ship")),
        ("0191:ship:late", OperationId("0191", "ship:late")),
        ("0191:ship/2", OperationId("0191", "ship", "2")),
        ("0191:ship/", OperationId("0191", "ship", "")),
    ],
)
def test_any_text_is_read(text: str | None, parts: OperationId) -> None:
    assert operation_id.split(text) == parts


def test_a_saga_with_a_colon_names_no_operation() -> None:
    with pytest.raises(AssertionError, match="another saga's step"):
        operation_id.of("a:b", "ship")
