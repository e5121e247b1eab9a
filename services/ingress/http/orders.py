"""POST and GET of orders."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import rfc8785
from prometheus_client import Counter
from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from uuid_utils import uuid7

from services.ingress.acceptance import Acceptance, Overloaded
from services.ingress.adapters.database import available
from services.ingress.adapters.orchestrator import Orchestrator
from services.ingress.adapters.postgres import find_order, page_of_orders, remember_progress
from services.ingress.domain import (
    STATUSES,
    Accepted,
    Duplicate,
    InProgress,
    KeyReused,
    Order,
    Outcome,
    Replayed,
    accepted,
)
from services.ingress.finishes import Finishes
from services.ingress.http.body import check_media_type, parse_json, read_body
from services.ingress.http.credentials import require_scope
from services.ingress.http.overload import Overload
from services.ingress.http.preconditions import idempotency_key, is_known, preferred_wait
from services.ingress.http.problems import Problem
from services.ingress.http.resource import accepted_headers, etag, order_resource, rendered
from services.ingress.http.visit import account_of, visit_of
from services.ingress.intake import Application, InputError, InvalidOrder, OrderInput, natural_key, read_order
from services.ingress.settings import Settings

PAGE_SIZE_MAX: Final = 200
_PAGE_SIZE: Final = 50
_ORDER_ID: Final = re.compile(r"ord_[0-9a-z]{20,40}")
_ORDER_NUMBER: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_JSON: Final = "application/json"
_OVER: Final = frozenset({"done", "skipped"})

POSTS: Final = Counter("tutti_order_posts_total", "Requests for an order by what became of them", ("outcome",))


@dataclass(frozen=True, slots=True)
class Orders:
    """The routes of /v1/orders, and what they need. `reader` is in autocommit: a read is one round trip."""

    settings: Settings
    reader: AsyncEngine
    acceptance: Acceptance
    finishes: Finishes
    orchestrator: Orchestrator
    overload: Overload
    now: Callable[[], datetime]

    async def collection(self, request: Request) -> Response:
        """GET and POST of /v1/orders. One route, so that 405 can name both."""
        if request.method == "POST":
            return await self.create(request)
        return await self.page(request)

    async def create(self, request: Request) -> Response:
        """Accepts an order, once for each key and once for each order number."""
        require_scope(account_of(request.scope), "orders:write")
        key = idempotency_key(request.headers)
        wait = preferred_wait(request.headers, self.settings.wait_seconds_max)
        check_media_type(request.headers)
        if self.overload.reason is not None:
            raise self._overloaded(f"We cannot take orders now: {self.overload.reason}.")
        given, fingerprint = await self._read_order(request)
        application = self._application(account_of(request.scope).partner_id, key, given, fingerprint)
        try:
            outcome = await self.acceptance.accept(application)
        except Overloaded:
            raise self._overloaded("Too many requests are waiting.") from None
        POSTS.labels(type(outcome).__name__).inc()
        return await self._answer(request, outcome, wait)

    async def one(self, request: Request) -> Response:
        """One order, with its steps as fresh as the orchestrator tells them within a second."""
        order = await self.own_order(request)
        order = await self._refreshed(order)
        body = rendered(order)
        headers = {"ETag": etag(body), "Cache-Control": "private, no-cache"}
        if not order.finished:
            headers["Retry-After"] = str(self.settings.retry_after_seconds)
        if is_known(headers["ETag"], request.headers):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=_JSON)

    async def page(self, request: Request) -> Response:
        """The partner's orders, newest first. `next` is the cursor of the next page, null on the last one."""
        account = account_of(request.scope)
        require_scope(account, "orders:read")
        query = _query(request.query_params)
        async with available(), self.reader.connect() as connection:
            # One more than asked for tells whether there is another page.
            found = await page_of_orders(
                connection, account.partner_id, **query.filters, after=query.after, limit=query.limit + 1
            )
        shown = found[: query.limit]
        document = {
            "orders": [order_resource(order) for order in shown],
            "next": _cursor(shown[-1].order_id) if len(found) > query.limit else None,
        }
        return Response(to_json(document), headers={"Cache-Control": "private, no-cache"}, media_type=_JSON)

    async def own_order(self, request: Request, scope: str = "orders:read") -> Order:
        """The partner's own order that the path names. Raises the same Problem for an unknown id and for another's."""
        account = account_of(request.scope)
        require_scope(account, scope)
        order_id = request.path_params["order_id"]
        order = None
        if _ORDER_ID.fullmatch(order_id):
            async with available(), self.reader.connect() as connection:
                order = await find_order(connection, account.partner_id, order_id)
        if order is None:
            raise Problem("not-found", "There is no such order.")
        visit_of(request.scope).correlation_id = order.correlation_id
        return order

    async def _read_order(self, request: Request) -> tuple[OrderInput, bytes]:
        body = await read_body(request, bytes_max=self.settings.body_bytes_max, seconds_max=self.settings.body_seconds_max)
        document = parse_json(body)
        try:
            given = read_order(document)
        except InvalidOrder as error:
            raise Problem("validation-failed", "The order does not follow the schema.", errors=error.errors) from None
        # After the schema, which admits no float and no huge number: canonical JSON has none of those.
        return given, hashlib.sha256(rfc8785.dumps(document)).digest()

    def _application(self, partner_id: str, key: str, given: OrderInput, fingerprint: bytes) -> Application:
        order = accepted(
            f"ord_{uuid7().hex}",
            str(uuid7()),
            natural_key(partner_id, given),
            self.now(),
            timedelta(seconds=self.settings.order_expected_seconds),
        )
        return Application(order, given, key, fingerprint, rendered(order))

    async def _answer(self, request: Request, outcome: Outcome, wait: int | None) -> Response:
        visit = visit_of(request.scope)
        match outcome:
            case Accepted(order_id=order_id, correlation_id=correlation_id, answer=answer):
                visit.correlation_id = correlation_id
                finished = await self.finishes.wait(order_id, wait) if wait else None
                return self._accepted(order_id, answer, finished, wait, {})
            case Replayed(order_id=order_id, correlation_id=correlation_id, answer=answer):
                visit.correlation_id = correlation_id
                finished = await self._finished_or_wait(request, order_id, wait) if wait else None
                return self._accepted(order_id, answer, finished, wait, {"Idempotent-Replayed": "true"})
            case Duplicate(order_id=order_id, correlation_id=correlation_id):
                raise Problem(
                    "duplicate-order",
                    "An order of this buyer, order number and revision exists.",
                    correlation_id=correlation_id,
                    order_id=order_id,
                )
            case KeyReused():
                raise Problem("idempotency-key-reused", "The Idempotency-Key was used before with another body.")
            case InProgress():
                raise Problem(
                    "request-in-progress",
                    "A request with this key, or for this order, is still being processed.",
                    headers={"Retry-After": str(self.settings.retry_after_seconds)},
                )

    def _accepted(
        self, order_id: str, answer: bytes, finished: Order | None, wait: int | None, extra: Mapping[str, str]
    ) -> Response:
        if finished is not None:
            headers = {"Location": f"/v1/orders/{order_id}", "Preference-Applied": f"wait={wait}", **extra}
            return Response(rendered(finished), headers=headers, media_type=_JSON)
        headers = {**accepted_headers(order_id, self.settings.retry_after_seconds), **extra}
        return Response(answer, 202, headers=headers, media_type=_JSON)

    async def _finished_or_wait(self, request: Request, order_id: str, wait: int) -> Order | None:
        async with available(), self.reader.connect() as connection:
            order = await find_order(connection, account_of(request.scope).partner_id, order_id)
        if order is not None and order.finished:
            return order
        return await self.finishes.wait(order_id, wait)

    async def _refreshed(self, order: Order) -> Order:
        # A completed order whose steps are all over has nothing new to tell.
        if order.status == "completed" and order.steps and all(step.state in _OVER for step in order.steps):
            return order
        progress = await self.orchestrator.progress(order.correlation_id)
        if progress is None:
            return order
        newer = order.advanced(progress)
        if newer != order:
            async with available(), self.reader.connect() as connection:
                await remember_progress(connection, newer)
        return newer

    def _overloaded(self, detail: str) -> Problem:
        return Problem("overloaded", detail, headers={"Retry-After": str(self.settings.retry_after_seconds)})


@dataclass(frozen=True, slots=True)
class _Query:
    filters: Mapping[str, Any]
    after: str | None
    limit: int


def _query(parameters: QueryParams) -> _Query:
    """The filters of a list. Raises Problem naming each parameter that makes no sense; unknown ones are ignored."""
    errors: list[InputError] = []
    order_number, status = parameters.get("order_number"), parameters.get("status")
    if order_number is not None and not _ORDER_NUMBER.fullmatch(order_number):
        errors.append(InputError("/order_number", "must have 1 to 64 characters, none of them a control character"))
    if status is not None and status not in STATUSES:
        errors.append(InputError("/status", f"must be one of {', '.join(sorted(STATUSES))}"))
    after = parameters.get("after")
    order_id = _order_id(after) if after is not None else None
    if after is not None and order_id is None:
        errors.append(InputError("/after", "must be the `next` of a page before"))
    limit = parameters.get("limit", str(_PAGE_SIZE))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= PAGE_SIZE_MAX):
        errors.append(InputError("/limit", f"must be a number from 1 to {PAGE_SIZE_MAX}"))
    if errors:
        raise Problem("validation-failed", "The query does not make sense.", errors=errors)
    return _Query({"order_number": order_number, "status": status}, order_id, int(limit))


def _cursor(order_id: str) -> str:
    """Opaque on purpose: partners pass it back and read nothing into it."""
    return base64.urlsafe_b64encode(order_id.encode()).rstrip(b"=").decode()


def _order_id(cursor: str) -> str | None:
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        return None
    return text if _ORDER_ID.fullmatch(text) else None
