"""POST /v1/orders/{order_id}/cancel: asked of the orchestrator, which decides."""

from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from services.ingress.adapters.orchestrator import Refused, Unreachable
from services.ingress.http.body import check_media_type, parse_json, read_body
from services.ingress.http.orders import Orders
from services.ingress.http.problems import Problem
from services.ingress.http.resource import accepted_headers, rendered
from services.ingress.intake import StrictText, input_errors

_REASON: Final = "cancelled by the partner"


class CancelInput(BaseModel):
    """What a cancellation may say. The body may be missing altogether."""

    model_config = ConfigDict(extra="forbid")

    reason: StrictText = _REASON


@dataclass(frozen=True, slots=True)
class Cancelling:
    orders: Orders

    async def cancel(self, request: Request) -> Response:
        """202 when the saga is told to unwind; 409 when it is too late; 503 when the orchestrator gave no answer."""
        order = await self.orders.own_order(request, "orders:write")
        reason = await self._reason(request)
        if order.finished:
            raise Problem("not-cancellable", f"The order has ended: {order.status}.")
        try:
            refused = await self.orders.orchestrator.cancel(
                order.correlation_id, reason=reason, actor=f"partner:{order.partner_id}"
            )
        except Unreachable:
            raise Problem(
                "orchestrator-unreachable",
                "Whether the order is being cancelled is not known.",
                headers={"Retry-After": str(self.orders.settings.retry_after_seconds)},
            ) from None
        if isinstance(refused, Refused):
            raise Problem("not-cancellable", refused.detail)
        headers = accepted_headers(order.order_id, self.orders.settings.retry_after_seconds)
        return Response(rendered(order), 202, headers=headers, media_type="application/json")

    async def _reason(self, request: Request) -> str:
        settings = self.orders.settings
        body = await read_body(request, bytes_max=settings.body_bytes_max, seconds_max=settings.body_seconds_max)
        if not body:
            return _REASON
        check_media_type(request.headers)
        try:
            return CancelInput.model_validate(parse_json(body)).reason
        except ValidationError as error:
            raise Problem(
                "validation-failed", "The cancellation does not follow the schema.", errors=input_errors(error)
            ) from None
