"""A saga as operators and partners see it. Pure: documents from an instance, its definition and its history."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from contracts import operation_id
from orchestrator.engine import waits_for
from orchestrator.instance import Compensation, Instance, StepRecord
from orchestrator.workflow import Workflow

HistoryLine = tuple[datetime, str, str | None, str | None, str]


def summary(instance: Instance) -> dict[str, Any]:
    """One row of a list."""
    return {
        "id": instance.id,
        "workflow": instance.workflow,
        "version": instance.version,
        "state": instance.state.value,
        "subject": instance.subject,
        "partner": instance.partner,
        "started_at": instance.started_at,
        "finished_at": instance.finished_at,
        "next_timer_at": instance.next_timer_at,
        "owner": instance.stuck.owner if instance.stuck else None,
        "stuck": instance.stuck.reason if instance.stuck else None,
    }


def saga_document(workflow: Workflow | None, instance: Instance, history: Sequence[HistoryLine]) -> dict[str, Any]:
    """Everything about one saga (`tutti saga show --json`)."""
    steps = [_step(instance, name, record) for name, record in instance.steps.items()]
    return {
        **summary(instance),
        "ending": instance.ending.value if instance.ending else None,
        "reasons": [{"code": reason.code, "detail": reason.detail} for reason in instance.reasons],
        "cancellation": _cancellation(instance),
        "sla": {},
        "steps": steps,
        "history": [
            {"at": at, "kind": kind, "step": step, "message_id": message_id, **from_json(detail)}
            for at, kind, step, message_id, detail in history
        ],
        "waits_for": _waits(workflow, instance),
        "time": _saga_time(instance, steps),
    }


def progress(workflow: Workflow | None, instance: Instance) -> dict[str, Any]:
    """How far a saga is, as ingress tells it to its partner."""
    waits = waits_for(workflow, instance) if workflow is not None else ()
    moments = [wait.by for wait in waits if wait.by is not None]
    steps = [
        {
            "id": name,
            "state": record.state.value,
            "attempts": record.attempts,
            "started_at": record.sent_at,
            "finished_at": record.answered_at,
        }
        for name, record in instance.steps.items()
    ]
    return {
        "status": instance.state.value,
        "stage": next((wait.step for wait in waits if wait.step), None),
        "expected_by": min(moments, default=None),
        "steps": steps,
    }


def _step(instance: Instance, name: str, record: StepRecord) -> dict[str, Any]:
    entry = next((entry for entry in instance.plan if entry.step == name), None)
    return {
        "id": name,
        "state": record.state.value,
        "attempts": record.attempts,
        "outcome": record.outcome,
        "operation_id": operation_id.of(instance.id, name),
        "sent_at": record.sent_at,
        "answered_at": record.answered_at,
        "due_at": record.due_at,
        "late": record.late,
        "dead_letter": record.dead_letter,
        "time": _step_time(record),
        "undo": _undo(entry) if entry is not None else None,
    }


def _undo(entry: Compensation) -> dict[str, Any]:
    return {
        "command": entry.command,
        "state": entry.state.value,
        "owner": entry.owner,
        "after": list(entry.after),
        "attempts": entry.attempts,
        "sent_at": entry.sent_at,
        "answered_at": entry.answered_at,
        "due_at": entry.due_at,
        "dead_letter": entry.dead_letter,
        "problem": entry.problem,
    }


def _cancellation(instance: Instance) -> dict[str, Any] | None:
    asked = instance.cancellation
    if asked is None:
        return None
    return {"reason": asked.reason, "actor": asked.actor, "at": asked.at, "too_late": asked.too_late}


def _waits(workflow: Workflow | None, instance: Instance) -> list[dict[str, Any]]:
    if workflow is None:
        return []
    return [
        {"step": wait.step, "direction": wait.direction, "answers": list(wait.answers), "by": wait.by}
        for wait in waits_for(workflow, instance)
    ]


def _step_time(record: StepRecord) -> dict[str, int]:
    """The parts of a step's time. Queue time is what nobody measured: on the way, and waiting to be taken up."""
    whole = _elapsed_ms(record.sent_at, record.answered_at)
    measured = record.processing_ms + record.dependency_ms + record.backoff_ms
    return {
        "queue_ms": max(0, whole - measured),
        "processing_ms": record.processing_ms,
        "dependency_ms": record.dependency_ms,
        "human_ms": 0,
        "backoff_ms": record.backoff_ms,
    }


def _saga_time(instance: Instance, steps: Sequence[dict[str, Any]]) -> dict[str, int]:
    totals = {name: sum(step["time"][name] for step in steps) for name in _step_time(StepRecord())}
    return {"elapsed_ms": _elapsed_ms(instance.started_at, instance.finished_at), **totals}


def _elapsed_ms(start: datetime | None, end: datetime | None) -> int:
    return max(0, round((end - start).total_seconds() * 1000)) if start and end else 0
