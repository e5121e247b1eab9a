import json

from dlq_tools.personal import mask_body, personal_fields


def test_the_contracts_say_which_fields_are_personal() -> None:
    assert {"name", "city", "postal_code", "lines"} <= personal_fields()
    assert not {"sku", "order_id", "buyer_id", "country"} & personal_fields()


def test_personal_values_are_masked_wherever_they_stand() -> None:
    address = {"name": "Erika", "lines": ["Hafenstr. 1"], "city": "Hamburg", "postal_code": "20457", "country": "DE"}
    body = {"data": {"ship_to": address, "lines": [{"sku": "P-1", "quantity": "2"}]}}
    masked = json.loads(mask_body(json.dumps(body).encode()))
    assert masked["data"]["ship_to"] == {
        "name": "***", "lines": ["***"], "city": "***", "postal_code": "***", "country": "DE",
    }  # fmt: skip
    assert masked["data"]["lines"] == [{"sku": "P-1", "quantity": "2"}]


def test_a_body_without_them_is_shown_byte_for_byte() -> None:
    body = b'{ "sku" :  "P-1", "n": 1e2 }'
    assert mask_body(body) == body


def test_what_is_no_json_is_masked_as_far_as_it_looks_personal() -> None:
    body = b'{"name": "Erika \\"E\\" M", "lines": ["Hafenstr. 1", "Hof"], "sku": "P-1", '
    assert mask_body(body) == b'{"name": "***", "lines": "***", "sku": "P-1", '


def test_a_value_that_is_cut_off_is_masked_too() -> None:
    assert mask_body(b'{"name": "Erika Must') == b'{"name": "***"'


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    assert mask_body(b"\x00\xff\xfe") == b"\x00\xff\xfe"
