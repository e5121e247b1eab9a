import json
from typing import Any

import pytest
from dlq_tools.personal import mask_body

from contracts.envelope import BODY_BYTES_MAX

ADDRESS = {"name": "Erika", "lines": ["Hafenstr. 1"], "city": "Hamburg", "postal_code": "20457", "country": "DE"}


def masked(body: Any) -> Any:
    return json.loads(mask_body(json.dumps(body).encode()))


def test_personal_values_are_masked_wherever_they_stand() -> None:
    found = masked({"data": {"ship_to": ADDRESS, "lines": [{"sku": "P-1", "quantity": "2"}]}})

    assert found["data"]["ship_to"] == {
        "name": "***", "lines": ["***"], "city": "***", "postal_code": "***", "country": "DE",
    }  # fmt: skip
    assert found["data"]["lines"] == [{"sku": "P-1", "quantity": "2"}]


@pytest.mark.parametrize(
    "field",
    [
        {"name": {"first": "Erika"}}, {"name": [["Erika"]]}, {"Name": "Erika"}, {"postal_code": 20457}, {"party": "Erika"}, {"listed": "Erika"},
        {"ship_to": "Erika, Hafenstr. 1"}, {"parties": ["Erika"]}, {"lines": ["Hafenstr. 1", {"name": "Erika"}]},
        {"data": '{"name": "Erika"}'}, {"data_base64": "RXJpa2E="},
    ],
    ids=str,
)  # fmt: skip
def test_a_broken_message_is_masked_too(field: dict[str, Any]) -> None:
    body = mask_body(json.dumps(field).encode())

    assert not any(canary in body for canary in (b"Erika", b"Hafenstr", b"20457", b"RXJpa2E="))


def test_a_body_without_them_is_shown_byte_for_byte() -> None:
    body = b'{ "sku" :  "P-1", "n": 1e2, "name": null, "lines": 3 }'
    assert mask_body(body) == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "Erika \\"E\\" M", "lines": ["Hafenstr. 1", "Hof"], "sku": "P-1", ', b'{"name": "Erika Must', b"Erika", b'"Erika"',
        b'"{\\"name\\": \\"Erika\\"}"', b'["Erika"]', b'{"a": {"name": "Erika"}, "a": 1}', b'{"name": "Erika", "name": "***"}',
        b"\x00\xff\xfe", b"ISA*00*Erika", b'{"a": ' + b"9" * 5000 + b"}", b"[" * 5000, b'{"sku": "' + b"x" * BODY_BYTES_MAX + b'"}',
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_what_cannot_be_parsed_is_masked_whole(body: bytes) -> None:
    assert mask_body(body) == b"***"


def test_that_a_body_is_empty_is_no_secret() -> None:
    assert mask_body(b"") == b""
