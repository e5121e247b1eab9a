"""Headers of dead letters as the first release wrote them: new ones are the same byte for byte, and these are read for ever."""

COMMAND = {
    "x-original": '{"content_type": "application/cloudevents+json", "content_encoding": null, "message_id": "0191-m",'
    ' "type": "credit.reserve-credit.v1", "user_id": "orchestrator", "exchange": "commands",'
    ' "routing_key": "credit.reserve-credit.v1", "deliveries": 2, "headers": {}}',
    "x-failure": '{"id": "dl_107718a616fb5d786e4a9d17", "identity": ["credit.commands", "s1:reserve", "do"],'
    ' "queue": "credit.commands", "service": "credit", "service_version": "1.2.3", "kind": "transient",'
    ' "error_class": "Transient", "error": "the bureau says \\"später\\"",'
    ' "trace": "Traceback\\n  File \\"services/credit/handlers.py\\", line 1, in decide\\n", "attempts": 3,'
    ' "first_failed_at": "2026-11-21T09:59:58.500000+00:00", "last_failed_at": "2026-11-21T10:00:00+00:00", "replay": 0,'
    ' "type": "credit.reserve-credit.v1", "source": "/orchestrator", "message_id": "0191-m", "correlation_id": "s1",'
    ' "subject": "ord_1", "operation_id": "s1:reserve", "revision": 3, "partner_id": "acme"}',
}
"""A command of the orchestrator that credit could not handle."""

NOT_READABLE = {
    "x-original": '{"content_type": "text/plain", "content_encoding": "gzip", "message_id": null, "type": null, "user_id": null,'
    ' "exchange": "", "routing_key": "", "deliveries": 0,'
    ' "headers": {"CC": ["a"], "\\u00fc": "\\\\xff\\u00fc", "n": {"t": "2026-01-02 00:00:00+00:00", "f": 1.5, "none": null}}}',
    "x-failure": '{"id": "dl_mine", "identity": ["credit.events", "body:00000000000000000000000000000000"],'
    ' "queue": "credit.events", "service": "credit", "service_version": "1.2.3", "kind": "permanent",'
    ' "error_class": "Permanent", "error": "body: is not JSON", "trace": "", "attempts": 1,'
    ' "first_failed_at": "2026-11-21T10:00:00+00:00", "last_failed_at": "2026-11-21T10:00:00+00:00", "replay": 4, "type": "",'
    ' "source": null, "message_id": "", "correlation_id": "", "subject": "", "operation_id": null, "revision": 0,'
    ' "partner_id": null}',
}
"""The fourth replay of what is no message at all."""

HEADERS_CUT = {
    "x-original": '{"content_type": "application/cloudevents+json", "content_encoding": null, "message_id": "0191-m",'
    ' "type": "credit.reserve-credit.v1", "user_id": "erp", "exchange": "events", "routing_key": "credit.reserve-credit.v1",'
    ' "deliveries": 2, "headers": {}, "headers_cut": "17256 bytes of properties and headers did not fit"}',
    "x-failure": '{"id": "dl_adfbd4a5517e4c24c5b0c96c", "identity": ["credit.events", "/erp", "1"], "queue": "credit.events",'
    ' "service": "credit", "service_version": "1.2.3", "kind": "crash-loop", "error_class": "Transient",'
    ' "error": "the bureau says \\"später\\"",'
    ' "trace": "Traceback\\n  File \\"services/credit/handlers.py\\", line 1, in decide\\n", "attempts": 3,'
    ' "first_failed_at": "2026-11-21T09:59:58.500000+00:00", "last_failed_at": "2026-11-21T10:00:00+00:00", "replay": 0,'
    ' "type": "credit.reserve-credit.v1", "source": "/orchestrator", "message_id": "0191-m", "correlation_id": "s1",'
    ' "subject": "ord_1", "operation_id": null, "revision": 3, "partner_id": "acme"}',
}
"""From a system outside, which sent more headers than fit and named an operation that is not its own."""
