"""The partner's side of the port: who asks, how often, and one shape for every error.

    request ──> key ──> account ──> quota ──> route ──> answer
                 │401      │401       │429      │ 404 405 4xx 503        every answer: X-Correlation-Id, RateLimit…
                                                                          anything unexpected: 500, told once to the log

Plain ASGI and Starlette's routes without FastAPI's argument handling: bodies are read by hand, counted and strictly,
and the documentation is written (openapi.py), so that the framework would only cost time on the busiest path.
"""

from collections.abc import Sequence
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import Message, Receive, Scope, Send
from uuid_utils import uuid7

from services.ingress.adapters.database import Unavailable
from services.ingress.http.credentials import Credentials, bearer, refusal
from services.ingress.http.problems import Problem
from services.ingress.http.quota import Quota, Quotas
from services.ingress.http.visit import Visit, begin, visit_of

_PRIVATE: Final = "/v1/"

log = structlog.get_logger()


class PartnerApplication:
    """An ASGI application for every path that the chassis does not serve itself."""

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        credentials: Credentials,
        *,
        public_paths: frozenset[str],
        anonymous_per_minute: int,
        retry_after_seconds: int,
    ) -> None:
        self._router = Router(routes, redirect_slashes=False)
        self._credentials = credentials
        self._public_paths = public_paths
        self._anonymous_per_minute = anonymous_per_minute
        self._retry_after_seconds = retry_after_seconds
        self._quotas = Quotas()
        self._guarded = ServerErrorMiddleware(self._answer, handler=self._unexpected)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Only a websocket can come here, and we serve no websockets.
            await send({"type": "websocket.close", "code": 1000})
            return
        visit = begin(scope, str(uuid7()))
        # The router raises for 404 and 405 only within an application, and the handlers of the application around us
        # must not answer.
        scope.setdefault("app", self)
        scope["starlette.exception_handlers"] = ({}, {})

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                quota = visit.quota or await self._quotas.look(_peer(visit), self._anonymous_per_minute)
                message["headers"] = [
                    *message["headers"],
                    (b"x-correlation-id", visit.correlation_id.encode()),
                    *quota.headers(),
                ]
            await send(message)

        await self._guarded(scope, receive, marked)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit = visit_of(scope)
        try:
            await self._admit(Request(scope), visit)
            await self._router(scope, receive, send)
        except Problem as problem:
            response = self._refused(problem, visit)
        except HTTPException as error:
            response = self._refused(_from_router(error), visit)
        except Unavailable as error:
            log.warning("database_unavailable", request_id=visit.request_id, exc_info=error)
            response = self._refused(
                Problem(
                    "overloaded",
                    "Our database cannot be asked at the moment.",
                    headers={"Retry-After": str(self._retry_after_seconds)},
                ),
                visit,
            )
        else:
            return
        await response(scope, receive, send)

    async def _admit(self, request: Request, visit: Visit) -> None:
        """Finds out who asks and counts the request. Raises Problem; counts strangers by their address."""
        path = request.scope["path"]
        if not path.startswith(_PRIVATE) or path in self._public_paths:
            visit.quota = await self._counted(_peer(visit), self._anonymous_per_minute, visit)
            return
        try:
            key = bearer(request.headers.get("authorization"))
            account = await self._credentials.account(key)
            if account is None:
                raise refusal()
        except Problem as problem:
            # Only now: a partner behind the same address as a stranger must not be kept out with it.
            if problem.kind.status == 401:
                visit.quota = await self._counted(_peer(visit), self._anonymous_per_minute, visit)
            raise
        visit.account = account
        visit.quota = await self._counted(f"partner:{account.partner_id}", account.requests_per_minute, visit)

    async def _counted(self, name: str, per_minute: int, visit: Visit) -> Quota:
        quota = await self._quotas.hit(name, per_minute)
        if not quota.allowed:
            visit.quota = quota
            raise Problem(
                "rate-limited",
                f"More than {quota.per_minute} requests in a minute.",
                headers={"Retry-After": str(quota.reset_seconds)},
            )
        return quota

    def _refused(self, problem: Problem, visit: Visit) -> Response:
        visit.correlation_id = problem.correlation_id or visit.correlation_id
        log.info(
            "request_refused",
            problem=problem.kind.code,
            request_id=visit.request_id,
            correlation_id=visit.correlation_id,
            partner_id=visit.account.partner_id if visit.account else None,
        )
        return problem.response(instance=f"urn:uuid:{visit.request_id}", correlation_id=visit.correlation_id)

    async def _unexpected(self, request: Request, error: Exception) -> Response:
        visit = visit_of(request.scope)
        # Without the traceback: the middleware raises the error again, and the server logs it.
        log.error("request_failed", request_id=visit.request_id, error_class=type(error).__name__)
        return self._refused(Problem("internal-error", "The request could not be handled."), visit)


def _peer(visit: Visit) -> str:
    return f"peer:{visit.peer}"


def _from_router(error: HTTPException) -> Problem:
    if error.status_code == 405:
        return Problem("method-not-allowed", "This path has other methods.", headers=error.headers)
    return Problem("not-found", "There is no such path.")
