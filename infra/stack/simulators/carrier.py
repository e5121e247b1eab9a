"""A carrier to practise with: books and cancels over HTTP as the real ones do, and fails when it is told to.

    python -m infra.stack.simulators.carrier --port 0 [--host 127.0.0.1] [--log attempts-and-effects.jsonl] [--token TOKEN]

One program plays any number of carriers: each has the address `http://HOST:PORT/NAME`, and without a name it is `default`.
`POST /faults` orders misbehaviour, `POST /departures` lets a parcel leave, `GET /attempts` and `GET /effects` tell what was asked
and what was done, separately: an attempt that failed may have had an effect, and this program is there to show it.
"""

import argparse
import asyncio
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import uvicorn
from fastapi import APIRouter, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

DEFAULT_CARRIER = "default"
RECORDS_MAX = 100_000
BOOKINGS_MAX = 100_000
FAULTS_MAX = 1_000
KEY_LENGTH_MAX = 500

FaultKind = Literal["unavailable", "slow", "execute-then-fail", "refuse", "garbage", "rate-limited"]
Action = Literal["book", "query", "cancel"]
BookingState = Literal["booked", "cancelled", "departed"]
Work = Callable[[], Response]


class Fault(BaseModel):
    """Misbehaviour to order: for `count` requests, or until a moment, or (with neither) until the faults are deleted.

    `unavailable` 503 and nothing done; `slow` waits `delay_seconds`, then does it; `execute-then-fail` does it, then 500;
    `refuse` 422 and nothing done; `garbage` does it and answers what is no JSON; `rate-limited` 429 with Retry-After.
    """

    model_config = ConfigDict(extra="forbid")

    kind: FaultKind
    count: int | None = Field(default=None, ge=1, le=1_000_000)
    until: AwareDatetime | None = None
    carrier: str | None = None
    action: Action | None = None
    delay_seconds: float = Field(default=10.0, ge=0, le=600)
    retry_after_seconds: int = Field(default=1, ge=0, le=600)
    detail: str = Field(default="the parcel is not taken", max_length=1000)

    def applies(self, carrier: str, action: Action, now: datetime) -> bool:
        return (
            (self.carrier is None or self.carrier == carrier)
            and (self.action is None or self.action == action)
            and not self.is_over(now)
        )

    def is_over(self, now: datetime) -> bool:
        return self.count == 0 or (self.until is not None and now >= self.until)


class Departure(BaseModel):
    """The parcel of this booking leaves; it cannot be cancelled any more."""

    model_config = ConfigDict(extra="forbid")

    carrier: str = DEFAULT_CARRIER
    booking: str = Field(max_length=KEY_LENGTH_MAX)


@dataclass(slots=True)
class Booking:
    """`tracking` is None for a key that was cancelled before it was booked, and never will be booked."""

    tracking: str | None
    state: BookingState


@dataclass(slots=True)
class Carriers:
    """All that is booked, and what was asked and done, newest last. `log` gets the same as lines of JSON."""

    log: TextIO | None = None
    bookings: dict[tuple[str, str], Booking] = field(default_factory=dict)
    attempts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECORDS_MAX))
    effects: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECORDS_MAX))
    faults: list[Fault] = field(default_factory=list)

    def book(self, carrier: str, key: str) -> Response:
        booking = self.bookings.get((carrier, key))
        if booking is None:
            if len(self.bookings) >= BOOKINGS_MAX:
                return _problem(503, "full", f"this simulator keeps {BOOKINGS_MAX} bookings; start it again")
            booking = self.bookings[carrier, key] = Booking(f"{carrier.upper()}-{secrets.token_hex(6)}", "booked")
            self._record(self.effects, {"effect": "booked", "carrier": carrier, "key": key, "tracking": booking.tracking})
            return _document(201, key, booking)
        if booking.tracking is None:
            return _problem(409, "cancelled", "this key was cancelled before it was booked")
        return _document(200, key, booking)

    def query(self, carrier: str, key: str) -> Response:
        booking = self.bookings.get((carrier, key))
        if booking is None or booking.tracking is None:
            return _problem(404, "unknown", "nothing is known of this key")
        return _document(200, key, booking)

    def cancel(self, carrier: str, key: str) -> Response:
        booking = self.bookings.get((carrier, key))
        if booking is None:
            # Remembered, so that a booking that is still on its way to us cannot be made after its cancellation.
            self.bookings[carrier, key] = Booking(None, "cancelled")
            return _problem(404, "unknown", "nothing is known of this key, and nothing will be booked under it")
        if booking.tracking is None:
            return _problem(404, "unknown", "nothing is known of this key")
        if booking.state == "departed":
            return _problem(409, "already-left", "the parcel has left")
        if booking.state == "booked":
            booking.state = "cancelled"
            self._record(self.effects, {"effect": "cancelled", "carrier": carrier, "key": key, "tracking": booking.tracking})
        return _document(200, key, booking)

    def depart(self, carrier: str, key: str) -> Response:
        booking = self.bookings.get((carrier, key))
        if booking is None or booking.state != "booked":
            return _problem(409, "not-booked", "only what is booked can leave")
        booking.state = "departed"
        self._record(self.effects, {"effect": "departed", "carrier": carrier, "key": key, "tracking": booking.tracking})
        return _document(200, key, booking)

    def attempt(self, action: Action, carrier: str, key: str, fault: Fault | None) -> None:
        """Writes down that something was asked, and what is going to be done wrong about it."""
        record = {"attempt": action, "carrier": carrier, "key": key, "fault": fault.kind if fault else None}
        self._record(self.attempts, record)

    def next_fault(self, carrier: str, action: Action) -> Fault | None:
        """The oldest fault that applies, used up by one."""
        now = datetime.now(UTC)
        self.faults = [fault for fault in self.faults if not fault.is_over(now)]
        fault = next((fault for fault in self.faults if fault.applies(carrier, action, now)), None)
        if fault is not None and fault.count is not None:
            fault.count -= 1
        return fault

    def _record(self, records: deque[dict[str, Any]], record: dict[str, Any]) -> None:
        records.append(record)
        if self.log is not None:
            self.log.write(json.dumps({"at": datetime.now(UTC).isoformat(), **record}) + "\n")
            self.log.flush()


def create_app(*, log: TextIO | None = None, token: str | None = None) -> FastAPI:
    """The carrier as an ASGI application, with nothing booked."""
    carriers = Carriers(log)
    app = FastAPI(title="carrier simulator", docs_url=None, redoc_url=None)
    app.include_router(_control(carriers))
    bookings = _bookings(carriers, token)
    app.include_router(bookings)
    app.include_router(bookings, prefix="/{carrier}")
    return app


def _control(carriers: Carriers) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @router.post("/faults", status_code=201)
    async def order_fault(fault: Fault) -> Response:
        if len(carriers.faults) >= FAULTS_MAX:
            return _problem(409, "too-many", f"{FAULTS_MAX} faults are ordered; DELETE /faults first")
        carriers.faults.append(fault)
        return Response(status_code=201)

    @router.get("/faults")
    async def list_faults() -> list[Fault]:
        return carriers.faults

    @router.delete("/faults", status_code=204)
    async def forget_faults() -> None:
        carriers.faults.clear()

    @router.post("/departures")
    async def depart(departure: Departure) -> Response:
        return carriers.depart(departure.carrier, departure.booking)

    @router.get("/attempts")
    async def list_attempts() -> list[dict[str, Any]]:
        return list(carriers.attempts)

    @router.get("/effects")
    async def list_effects() -> list[dict[str, Any]]:
        return list(carriers.effects)

    return router


def _bookings(carriers: Carriers, token: str | None) -> APIRouter:
    router = APIRouter()

    async def answer(request: Request, action: Action, key: str, work: Work) -> Response:
        if token is not None and request.headers.get("Authorization") != f"Bearer {token}":
            return _problem(401, "unauthorized", "the token is missing or wrong")
        if not 1 <= len(key) <= KEY_LENGTH_MAX:
            return _problem(400, "bad-key", f"an Idempotency-Key has 1 to {KEY_LENGTH_MAX} characters")
        carrier = _carrier(request)
        fault = carriers.next_fault(carrier, action)
        carriers.attempt(action, carrier, key, fault)
        return await _misbehave(fault, work) if fault else work()

    @router.post("/v1/bookings")
    async def book(request: Request, idempotency_key: Annotated[str, Header()] = "") -> Response:
        return await answer(request, "book", idempotency_key, lambda: carriers.book(_carrier(request), idempotency_key))

    @router.get("/v1/bookings/{key:path}")
    async def query(request: Request, key: str) -> Response:
        return await answer(request, "query", key, lambda: carriers.query(_carrier(request), key))

    @router.delete("/v1/bookings/{key:path}")
    async def cancel(request: Request, key: str) -> Response:
        return await answer(request, "cancel", key, lambda: carriers.cancel(_carrier(request), key))

    return router


async def _misbehave(fault: Fault, work: Work) -> Response:
    faults: dict[FaultKind, Callable[[], Awaitable[Response]]] = {
        "unavailable": lambda: _at_once(_problem(503, "unavailable", "try again later")),
        "slow": lambda: _late(fault.delay_seconds, work),
        "execute-then-fail": lambda: _after(work, _problem(500, "internal", "something went wrong")),
        "refuse": lambda: _at_once(_problem(422, "refused", fault.detail)),
        "garbage": lambda: _after(work, PlainTextResponse("<html>It works!</html>")),
        "rate-limited": lambda: _at_once(
            _problem(429, "rate-limited", "too many requests", {"Retry-After": str(fault.retry_after_seconds)})
        ),
    }
    return await faults[fault.kind]()


async def _at_once(response: Response) -> Response:
    return response


async def _late(delay_seconds: float, work: Work) -> Response:
    await asyncio.sleep(delay_seconds)
    return work()


async def _after(work: Work, response: Response) -> Response:
    work()
    return response


def _carrier(request: Request) -> str:
    return str(request.path_params.get("carrier", DEFAULT_CARRIER))


def _document(status: int, key: str, booking: Booking) -> Response:
    return JSONResponse({"booking": key, "tracking": booking.tracking, "state": booking.state}, status)


def _problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"code": code, "detail": detail}, status, headers=headers)


def main(arguments: list[str] | None = None) -> None:
    """Runs until it is told to stop. With port 0 a free one is chosen; uvicorn's first log lines name it."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack.simulators.carrier", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, help="append every attempt and every effect to this file, one JSON object a line")
    parser.add_argument("--token", help="refuse requests without this bearer token")
    options = parser.parse_args(arguments)
    log = options.log.open("a", encoding="utf-8") if options.log else None
    try:
        app = create_app(log=log, token=options.token)
        uvicorn.run(app, host=options.host, port=options.port, access_log=False, timeout_graceful_shutdown=2)
    finally:
        if log is not None:
            log.close()


if __name__ == "__main__":
    main()
