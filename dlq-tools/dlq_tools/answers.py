"""The shapes of the failure desk's answers: what `dlq list`, `show` and `replay` print with `--json`."""

import base64
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Response
from pydantic_core import to_json

from dlq_tools.acts import Done
from dlq_tools.personal import mask_body


def figures(done: Done, *, dry_run: bool) -> dict[str, Any]:
    """The figures of a replay that has just begun, in the shape of a campaign's."""
    return {
        "campaign": done.campaign,
        "items": len(done.letters),
        "resolved": 0,
        "failed_again": 0,
        "pending": 0 if dry_run else len(done.letters),
        "state": "dry-run" if dry_run else "running" if done.campaign else "empty",
    }


def details(done: Done) -> dict[str, Any]:
    """Which dead letters it did, refused and did not find."""
    return {
        "ids": [letter.id for letter in done.letters],
        "refused": [{"id": letter, "reason": reason} for letter, reason in done.refused],
        "unknown": list(done.unknown),
    }


def shown(found: Mapping[str, Any] | None, letter: str, *, revealed: bool) -> dict[str, Any]:
    """The shape of `dlq show`. Raises HTTPException 404."""
    if found is None:
        raise HTTPException(404, f"there is no dead letter {letter!r}; see `dlq list`")
    fields = ("id", "queue", "type", "message_id", "correlation_id", "subject", "kind", "error_class", "error", "attempts",
              "first_failed_at", "last_failed_at", "group", "revision", "state")  # fmt: skip
    original = dict(found["original"])
    headers = original.pop("headers", {})
    body: bytes = found["body"] if revealed else mask_body(found["body"])
    failure = (
        "trace",
        "step",
        "service",
        "service_version",
        "source",
        "operation_id",
        "partner_id",
        "identity",
        "signature",
        "replays",
    )
    return {
        **{name: found[name] for name in fields},
        "headers": headers,
        **_body(body),
        "body_masked": body != found["body"],
        "failure": {**{name: found[name] for name in failure}, "original": original},
        "history": found["history"],
    }


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def as_json(document: Any) -> Response:
    """The answer; what JSON lacks becomes null."""
    return Response(to_json(document, inf_nan_mode="null"), media_type="application/json")
