"""What ingress asks of the orchestrator over HTTP: how far a saga is, and whether it may be cancelled."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import quote

import httpx2
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from services.ingress.domain import Progress, Step

_ANSWER_BYTES_MAX: Final = 1024 * 1024


class Unreachable(Exception):
    """The orchestrator gave no usable answer in time. Whether it did what was asked is unknown."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The orchestrator will not cancel: the saga is past its pivot, or finished."""

    detail: str


class _StepDocument(BaseModel):
    id: Annotated[str, Field(max_length=100)]
    state: Annotated[str, Field(max_length=40)]
    attempts: int = 0
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None


class _ProgressDocument(BaseModel):
    """A tolerant reading: a newer orchestrator may say more."""

    status: str | None = None
    stage: Annotated[str | None, Field(max_length=100)] = None
    expected_by: AwareDatetime | None = None
    steps: Annotated[tuple[_StepDocument, ...], Field(max_length=500)] = ()


class Orchestrator:
    """One client per process. After a failure it pauses, so that readers do not all wait for a timeout."""

    def __init__(self, url: str, token: str, *, timeout_seconds: float, pause_seconds: float) -> None:
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_seconds,
            follow_redirects=False,
            trust_env=False,
            limits=httpx2.Limits(max_connections=20, max_keepalive_connections=5),
        )
        self._pause_seconds = pause_seconds
        self._paused_until = 0.0

    async def progress(self, correlation_id: str) -> Progress | None:
        """How far the saga is; None when the orchestrator does not say in time, or does not know it yet."""
        if time.monotonic() < self._paused_until:
            return None
        try:
            answer = await self._client.get(f"/internal/sagas/{quote(correlation_id, safe='')}/steps")
        except httpx2.HTTPError:
            self._paused_until = time.monotonic() + self._pause_seconds
            return None
        if answer.status_code != httpx2.codes.OK or len(answer.content) > _ANSWER_BYTES_MAX:
            return None
        try:
            document = _ProgressDocument.model_validate(_as_object(answer.json()))
        except (ValidationError, ValueError):
            return None
        steps = tuple(Step(**step.model_dump()) for step in document.steps)
        return Progress(document.status, document.stage, document.expected_by, steps)

    async def cancel(self, correlation_id: str, *, reason: str, actor: str) -> Refused | None:
        """Asks for the cancellation; None when it was accepted. Raises Unreachable when nothing was decided."""
        try:
            answer = await self._client.post(
                f"/internal/sagas/{quote(correlation_id, safe='')}/cancel", json={"reason": reason, "actor": actor}
            )
        except httpx2.HTTPError as error:
            raise Unreachable(f"the orchestrator cannot be asked ({type(error).__name__})") from error
        if answer.is_success:
            return None
        if answer.status_code == httpx2.codes.CONFLICT:
            return Refused(_detail(answer) or "The process is past the point of no return, or finished.")
        raise Unreachable(f"the orchestrator answered {answer.status_code}")

    async def close(self) -> None:
        await self._client.aclose()


def _as_object(document: Any) -> Any:
    return {"steps": document} if isinstance(document, list) else document


def _detail(answer: httpx2.Response) -> str | None:
    try:
        document = answer.json()
    except ValueError:
        return None
    detail = document.get("detail") if isinstance(document, Mapping) else None
    return detail[:500] if isinstance(detail, str) else None
