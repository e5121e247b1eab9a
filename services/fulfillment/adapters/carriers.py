"""Carriers that are booked over HTTP: the one place where fulfillment talks to somebody outside.

What we ask of a carrier's interface, below the address that our settings give:

    POST   /v1/bookings        under `Idempotency-Key`; the same key is the same booking. 409 when the key was cancelled before
    GET    /v1/bookings/{key}  the booking, or 404
    DELETE /v1/bookings/{key}  taken back; 404 when nothing is known, and then nothing is ever booked under this key;
                               409 when it has left
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from contracts.values import Text
from infra.chassis.errors import Permanent, Transient
from infra.chassis.service import Call, CallResult

RESPONSE_BYTES_MAX: Final = 64 * 1024
RETRY_AFTER_SECONDS_MAX: Final = 300.0
_DEFINITE_NO: Final = frozenset({400, 402, 409, 422})
_BUSY: Final = frozenset({408, 425, 429})
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class _Booking(BaseModel):
    """What a carrier says of a booking. `departed` is on its way already."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    tracking: Text
    state: Literal["booked", "cancelled", "departed"]


class _Refusal(BaseModel):
    """Why a carrier refuses; both may be missing."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    code: Annotated[str, StringConstraints(max_length=60)] = "refused"
    detail: Annotated[str, StringConstraints(max_length=1000)] = "no reason given"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


class HttpCarriers:
    """Dependency. A call's request names `carrier`, `action` (book or cancel) and `booking`, the carrier's idempotency key.

    Addresses and tokens come from settings alone, never from a message. Redirects are not followed, the environment's proxies
    are not used, and an answer is read up to 64 KiB. What leaves open whether the carrier has acted is Transient; what only a
    change of our settings can mend is Permanent.
    """

    def __init__(
        self, *, urls: Mapping[str, str], tokens: Mapping[str, str], timeout_seconds: float, connections_max: int
    ) -> None:
        self._urls = {carrier: url.rstrip("/") for carrier, url in urls.items()}
        self._tokens = dict(tokens)
        self._timeout_seconds = timeout_seconds
        self._client = httpx2.AsyncClient(
            timeout=timeout_seconds,
            limits=httpx2.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
            follow_redirects=False,
            trust_env=False,
            # What arrives is then as long as it says; a compressed answer could be larger than its bytes by far.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def query(self, call: Call) -> CallResult | None:
        """None also where the booking stands and is to be taken back: that request still has to be sent."""
        answer = await self._send(call, "GET", _path(call))
        if answer.status == _NOT_FOUND:
            return None
        if not answer.succeeded:
            raise _misconfigured(call, answer)
        booking = _booking(call, answer)
        if call.request["action"] == "book":
            return _booked(call, booking)
        return CallResult(call, "done") if booking.state == "cancelled" else None

    async def perform(self, call: Call) -> CallResult:
        """`refused` for a definite no: the carrier does not take the parcel, or does not take the booking back."""
        return await (self._book(call) if call.request["action"] == "book" else self._cancel(call))

    async def _book(self, call: Call) -> CallResult:
        body = {name: value for name, value in call.request.items() if name != "action"}
        answer = await self._send(call, "POST", "/v1/bookings", body=body)
        if answer.status in _DEFINITE_NO:
            return _refused(call, answer)
        if not answer.succeeded:
            raise _misconfigured(call, answer)
        return _booked(call, _booking(call, answer))

    async def _cancel(self, call: Call) -> CallResult:
        answer = await self._send(call, "DELETE", _path(call))
        if answer.succeeded or answer.status == _NOT_FOUND:
            return CallResult(call, "done")
        if answer.status == _CONFLICT:
            return _refused(call, answer)
        raise _misconfigured(call, answer)

    async def _send(self, call: Call, method: str, path: str, body: Mapping[str, Any] | None = None) -> _Answer:
        """One request. Raises Transient when there is no answer, or one that says: later."""
        carrier = _text(call, "carrier")
        headers = {"Idempotency-Key": _text(call, "booking")}
        if carrier in self._tokens:
            headers["Authorization"] = f"Bearer {self._tokens[carrier]}"
        try:
            # The client's own timeouts are for each read; a carrier that sends a byte a second would never end.
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream(method, self._url(carrier) + path, headers=headers, json=body) as response,
            ):
                if response.status_code >= 500 or response.status_code in _BUSY:
                    raise Transient(
                        f"carrier {carrier} answered {response.status_code} to {method}",
                        retry_after_seconds=_retry_after(response.headers.get("Retry-After")),
                    )
                return _Answer(response.status_code, await _read(response, carrier))
        except TimeoutError as error:
            raise Transient(f"carrier {carrier} gave no answer to {method} within {self._timeout_seconds} s") from error
        except httpx2.RequestError as error:
            raise Transient(f"carrier {carrier} cannot be reached: {type(error).__name__}") from error

    def _url(self, carrier: str) -> str:
        url = self._urls.get(carrier)
        if url is None:
            raise Permanent(f"no address is set for carrier {carrier}; add it to TUTTI_FULFILLMENT__CARRIER_URLS and replay")
        return url


async def _read(response: httpx2.Response, carrier: str) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > RESPONSE_BYTES_MAX:
            raise Transient(f"carrier {carrier} answered with more than {RESPONSE_BYTES_MAX} bytes")
    return bytes(body)


def _path(call: Call) -> str:
    return f"/v1/bookings/{quote(_text(call, 'booking'), safe='')}"


def _booking(call: Call, answer: _Answer) -> _Booking:
    """Raises Transient for an answer that cannot be read: the request may have been carried out, so it is asked for by key."""
    try:
        return _Booking.model_validate_json(answer.body)
    except ValidationError as error:
        raise Transient(f"the answer of carrier {call.request['carrier']} ({answer.status}) cannot be read") from error


def _booked(call: Call, booking: _Booking) -> CallResult:
    if booking.state == "cancelled":
        return CallResult(call, "refused", {"code": "cancelled", "detail": "the booking was cancelled before"})
    return CallResult(call, "done", {"tracking": booking.tracking})


def _refused(call: Call, answer: _Answer) -> CallResult:
    try:
        refusal = _Refusal.model_validate_json(answer.body)
    except ValidationError:
        # The status alone is definite.
        refusal = _Refusal(detail=f"refused with status {answer.status}")
    # Somebody else's text: without line breaks, so that it cannot look like another line of a log.
    return CallResult(call, "refused", {"code": refusal.code, "detail": " ".join(refusal.detail.split())})


def _misconfigured(call: Call, answer: _Answer) -> Permanent:
    return Permanent(
        f"carrier {call.request['carrier']} answered {answer.status} to {call.request['action']}; "
        "check its address and token in fulfillment's settings, then replay"
    )


def _retry_after(value: str | None) -> float | None:
    """Only the form in seconds; a date would need the carrier's clock to be right."""
    if value is None or not value.strip().isdigit():
        return None
    return min(float(value), RETRY_AFTER_SECONDS_MAX)


def _text(call: Call, name: str) -> str:
    value = call.request[name]
    assert isinstance(value, str), f"{name} is text in every call"
    return value
