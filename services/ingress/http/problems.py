"""Every error that a partner can meet: its code, its status, whether to try again, and what to do. RFC 9457.

`python -m services.ingress.http.problems` prints docs/errors.md, which a test compares.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

from services.ingress.intake import InputError

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of error. `retryable`: the same request may succeed later without being changed."""

    code: str
    status: int
    title: str
    retryable: bool
    explanation: str

    @property
    def path(self) -> str:
        return f"/problems/{self.code}"

    def document(self) -> str:
        """What GET on its type answers, and a section of docs/errors.md: Markdown."""
        again = "yes" if self.retryable else "no"
        return f"## {self.code}\n\n{self.title}. Status {self.status}; retryable: {again}.\n\n{self.explanation}\n"


def _kind(code: str, status: int, title: str, explanation: str, *, retryable: bool = False) -> ProblemType:
    return ProblemType(code, status, title, retryable, explanation)


TYPES: Final[Mapping[str, ProblemType]] = {
    kind.code: kind
    for kind in (
        _kind(
            "invalid-json",
            400,
            "The body is not JSON",
            "Send one JSON object in UTF-8, without NaN or infinities, without repeated keys, not nested deeper "
            "than a hundred levels.",
        ),
        _kind(
            "idempotency-key-missing",
            400,
            "The Idempotency-Key header is missing",
            "Every POST of an order needs an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header, section "
            "2.1). Make a new one for each order, a UUID for example, and send the same one when you repeat the "
            "request.",
        ),
        _kind(
            "idempotency-key-invalid",
            400,
            "The Idempotency-Key header is malformed",
            "One header with 1 to 255 printable ASCII characters, bare or in double quotes (section 2.1 of the "
            "draft). A bare key has no comma, because that would be a list of keys.",
        ),
        _kind(
            "unauthorized",
            401,
            "No valid API key",
            "Send `Authorization: Bearer tk_…`. The key is unknown, incomplete, expired or revoked; which of these is not told.",
        ),
        _kind(
            "forbidden",
            403,
            "The API key does not allow this",
            "The key is valid, but was issued without the scope that this request needs. Use another key.",
        ),
        _kind(
            "not-found",
            404,
            "There is nothing here",
            "The path does not exist, or names an order that is not yours or does not exist. The two are not told apart.",
        ),
        _kind("method-not-allowed", 405, "The method is not allowed here", "The `Allow` header lists what is."),
        _kind(
            "request-timeout",
            408,
            "The body did not arrive in time",
            "Send the whole body within ten seconds.",
            retryable=True,
        ),
        _kind(
            "request-in-progress",
            409,
            "The first request with this key is still being processed",
            "Wait as long as `Retry-After` says and repeat the request with the same key (section 2.6 of the "
            "draft): you will be given the answer of the first.",
            retryable=True,
        ),
        _kind(
            "duplicate-order",
            409,
            "An order of this number exists",
            "Another request, with another key, has created the order of this buyer, order number and revision. Its "
            "id is in `order_id`. To order again, use another order number; to change an order, raise `revision`.",
        ),
        _kind(
            "not-cancellable",
            409,
            "The order can no longer be cancelled",
            "It is past the point from which it is completed in any case, or it has ended.",
        ),
        _kind(
            "body-too-large",
            413,
            "The body is too large",
            "A body has at most 256 KiB. An order has at most 200 lines.",
        ),
        _kind(
            "unsupported-media-type",
            415,
            "The media type is not supported",
            "Send `Content-Type: application/json`, in UTF-8.",
        ),
        _kind(
            "unsupported-content-encoding",
            415,
            "Content-Encoding is not supported",
            "Send the body as it is, not compressed.",
        ),
        _kind(
            "validation-failed",
            422,
            "The request does not follow the schema",
            "`errors` lists each place (a JSON Pointer; for query parameters `/name`) and what is wrong with it. "
            "The schema is in `/v1/openapi.json`. Unknown fields are refused, so that a misspelt one is not lost in "
            "silence.",
        ),
        _kind(
            "idempotency-key-reused",
            422,
            "The key belongs to another request",
            "This Idempotency-Key was used before with another body (section 2.2 of the draft). Use a new key for a "
            "new order. Bodies are compared as canonical JSON (RFC 8785), so that white space and the order of "
            "members do not matter.",
        ),
        _kind(
            "rate-limited",
            429,
            "Too many requests",
            "Wait as long as `Retry-After` says. `RateLimit-Policy` tells the quota (`q` requests in `w` seconds), "
            "`RateLimit` what is left of it (`r`) and when more comes (`t` seconds).",
            retryable=True,
        ),
        _kind(
            "internal-error",
            500,
            "Something is wrong on our side",
            "Repeat the request with the same Idempotency-Key: it cannot have two effects. If it stays, tell us `instance`.",
            retryable=True,
        ),
        _kind(
            "overloaded",
            503,
            "We cannot take this request now",
            "Too much is waiting, or our database is away. Wait as long as `Retry-After` says and repeat the "
            "request with the same Idempotency-Key: if it had an effect after all, you will be given the answer.",
            retryable=True,
        ),
        _kind(
            "orchestrator-unreachable",
            503,
            "We cannot decide this now",
            "The part of our system that decides about cancelling gave no answer. Repeat the request: cancelling "
            "twice does no harm.",
            retryable=True,
        ),
    )
}


class Problem(Exception):
    """Ends a request with this answer. `detail` is for the partner: no internals, no values of theirs."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[InputError] = (),
        headers: Mapping[str, str] | None = None,
        correlation_id: str | None = None,
        **members: str,
    ) -> None:
        self.kind = TYPES[code]
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.correlation_id = correlation_id
        self.members = members
        super().__init__(code)

    def response(self, *, instance: str, correlation_id: str) -> Response:
        """The answer. `instance` is this one occurrence, a URN."""
        document: dict[str, Any] = {
            "type": self.kind.path,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": instance,
            "correlation_id": correlation_id,
            "retryable": self.kind.retryable,
            **self.members,
        }
        if self.errors:
            document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in self.errors]
        return Response(to_json(document), self.kind.status, headers=self.headers, media_type=MEDIA_TYPE)


def documentation() -> str:
    """docs/errors.md."""
    opening = (
        "# Errors\n\nEvery error is `application/problem+json` (RFC 9457) with `type title status detail instance "
        "correlation_id retryable`, and `errors` where the input is at fault. `type` is `/problems/CODE`; GET on it "
        "answers the section below.\nGenerated by `python -m services.ingress.http.problems`.\n"
    )
    return "\n".join([opening, *(kind.document() for kind in TYPES.values())])


if __name__ == "__main__":
    sys.stdout.write(documentation())
