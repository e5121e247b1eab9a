"""The body of a request, counted while it arrives, and read as one strict JSON object."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive

from contracts.envelope import EnvelopeError, parse_object
from services.ingress.http.problems import Problem
from services.ingress.intake import InputError

# A client that is still sending would lose our answer to a reset connection, so what is too much is read on and
# dropped, up to here.
_DRAIN_BYTES_MAX: Final = 16 * 1024 * 1024
_WHITE_SPACE: Final = b" \t\r\n"


def check_media_type(headers: Headers) -> None:
    """Raises Problem unless the body is plain JSON."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem("unsupported-content-encoding", "The body has a Content-Encoding; send it as it is.")
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise Problem("unsupported-media-type", "The body is not declared as application/json.")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8", "us-ascii"):
            raise Problem("unsupported-media-type", "The body is declared in another character set than UTF-8.")


async def read_body(request: Request, *, bytes_max: int, seconds_max: float) -> bytes:
    """The whole body. Raises Problem when it is larger than `bytes_max` or takes longer than `seconds_max`."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > bytes_max and "expect" in request.headers:
        # The client asks before it sends: nothing has to be read to refuse it.
        raise _too_large(bytes_max)
    try:
        async with asyncio.timeout(seconds_max):
            body = await _read(request.receive, bytes_max)
    except TimeoutError:
        raise Problem("request-timeout", f"The body did not arrive within {seconds_max:g} seconds.") from None
    if body is None:
        raise _too_large(bytes_max)
    return body


async def _read(receive: Receive, bytes_max: int) -> bytes | None:
    """The whole body; None when it is too large, and has been read on and dropped as far as we are willing to."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in _chunks(receive):
        size += len(chunk)
        if size > bytes_max + _DRAIN_BYTES_MAX:
            return None
        if size <= bytes_max:
            chunks.append(chunk)
        else:
            chunks.clear()
    return b"".join(chunks) if size <= bytes_max else None


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Nobody is there to be answered; the answer only ends the request.
            raise Problem("request-timeout", "The client closed the connection.")
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _too_large(bytes_max: int) -> Problem:
    return Problem("body-too-large", f"The body has more than {bytes_max} bytes.")


def parse_json(body: bytes) -> dict[str, Any]:
    """The object that the body is. Raises Problem: 400 for what is not strict JSON, 422 for JSON that is no object.

    The latter is well-formed and of the wrong type, like any other violation of the schema.
    """
    try:
        if body.lstrip(_WHITE_SPACE)[:1] not in (b"{", b""):
            from_json(body, allow_inf_nan=False)
            raise Problem(
                "validation-failed",
                "The body is JSON, but not an object.",
                errors=[InputError("", "must be a JSON object")],
            )
        return parse_object(body)
    except EnvelopeError as error:
        raise Problem("invalid-json", f"The {str(error).replace(':', '', 1)}.") from None
    except ValueError as error:
        raise Problem("invalid-json", f"The body is not JSON: {str(error)[:200]}.") from None
