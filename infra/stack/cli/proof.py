"""The reconciliation proof: every emitted message is somewhere, every order in exactly one state, every effect explained. Pure.

emitted ──> outbox? ──> in the receiver's inbox? ──> retry, dead letter, still in the queue? ──> otherwise: undelivered
accepted order ──> has a saga? ──> otherwise: lost                operation ──> outcome, or under way? ──> otherwise: unanswered
effect ──> belongs to a known saga? ──> otherwise: unexplained    service's own sums ──> doubled, unexplained
given up by its receiver ──> has a dead letter, or one is on its way? ──> otherwise: lost
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.message import owner_of
from contracts.registry import FAILURE_DESK, REGISTRY
from infra.broker.topology import DEAD_SUFFIX

ACCEPTED: Final = "orders.order-accepted.v1"
DEAD_LETTER: Final = "dead-letter"
KINDS: Final = ("lost", "doubled", "unanswered", "undelivered", "unexplained")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the services said. `facts` are by service, `sagas` as the orchestrator lists them. `letters` are all dead letters, as pairs of
    queue and message id; `dead` and `dead_operations` are of the unresolved ones only. `depths` are ready messages by queue."""

    facts: Mapping[str, Mapping[str, Any]]
    sagas: Sequence[Mapping[str, Any]]
    letters: frozenset[tuple[str, str]] = frozenset()
    dead: frozenset[tuple[str, str]] = frozenset()
    dead_operations: frozenset[str] = frozenset()
    depths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that does not fit, with the command that looks into it."""

    kind: str
    id: str
    detail: str
    command: str

    def document(self) -> dict[str, str]:
        return {"id": self.id, "detail": self.detail, "command": self.command}


def doubts(evidence: Evidence) -> list[Doubt]:
    """Everything that does not fit now. Messages on their way fit for a moment only: ask twice and keep what is in both."""
    return [*_lost(evidence), *_given_up(evidence), *_undelivered(evidence), *_operations(evidence), *_findings(evidence)]


def summary(evidence: Evidence, found: Sequence[Doubt]) -> dict[str, Any]:
    """The document of `tutti reconcile --json`."""
    states: dict[str, int] = {}
    for saga in evidence.sagas:
        states[saga["state"]] = states.get(saga["state"], 0) + 1
    by_kind = {kind: [doubt.document() for doubt in found if doubt.kind == kind] for kind in KINDS}
    return {"orders": len(evidence.sagas), "in": dict(sorted(states.items())), **by_kind, "ok": not found}


def _lost(evidence: Evidence) -> list[Doubt]:
    known = {saga["id"] for saga in evidence.sagas}
    waiting = {row[0] for row in evidence.facts.get("ingress", {}).get("outbox", ())}
    in_queue = evidence.depths.get("orchestrator.events", 0) > 0
    dead = {message_id for _, message_id in evidence.dead}
    return [
        Doubt("lost", saga_id, f"the order was accepted with message {message_id} and has no saga", f"tutti saga show {saga_id}")
        for message_id, wire_name, _, saga_id in evidence.facts.get("ingress", {}).get("emitted", ())
        if wire_name == ACCEPTED and saga_id not in known and message_id not in waiting | dead and not in_queue
    ]


def _given_up(evidence: Evidence) -> list[Doubt]:
    """An inbox row that says `dead` is a claim. A dead letter proves it, whatever has become of the letter, and so may one on its way."""
    found = []
    for service, facts in evidence.facts.items():
        # The outbox row of a dead letter does not say of which message it is. While one waits, it may be that of any message which the
        # service gave up.
        leaving = any(wire_name == DEAD_LETTER and not parked for _, wire_name, parked, _ in facts["outbox"])
        for queue, message_id, state in facts["inbox"]:
            if state != "dead" or leaving or (queue, message_id) in evidence.letters:
                continue
            if evidence.depths.get(queue + DEAD_SUFFIX, 0) == 0:
                detail = f"{queue} gave this message up, and the failure desk has no dead letter of it"
                found.append(Doubt("lost", message_id, detail, f"tutti logs {service}"))
    return found


def _undelivered(evidence: Evidence) -> list[Doubt]:
    waiting_again = {(row[0], row[1]) for facts in evidence.facts.values() for row in facts["retries"]}
    received = {
        (row[0], row[1])
        for facts in evidence.facts.values()
        for row in facts["inbox"]
        if row[2] != "retrying" or (row[0], row[1]) in waiting_again
    }
    found = []
    for service, facts in evidence.facts.items():
        waiting = {row[0]: row for row in facts["outbox"]}
        for message_id, wire_name, operation_id, _ in facts["emitted"]:
            if (row := waiting.get(message_id)) is not None:
                if row[2]:
                    detail = f"{wire_name} is parked in the outbox of {service}: the broker refuses it"
                    found.append(Doubt("undelivered", message_id, detail, f"tutti logs {service}"))
                continue
            # Whether a dead letter has arrived is asked for the message that was given up (`_given_up`).
            # A replay carries the id of its first delivery, which is looked for under its first sender.
            if wire_name == DEAD_LETTER or (service == FAILURE_DESK and owner_of(wire_name) != FAILURE_DESK):
                continue
            entry = REGISTRY.get(wire_name)
            for queue in entry.receivers if entry else ():
                place = (queue, message_id)
                if owner_of(queue) not in evidence.facts or place in received or place in evidence.dead:
                    continue
                if evidence.depths.get(queue, 0) > 0 or operation_id in evidence.dead_operations:
                    continue
                detail = f"{wire_name} left {service} and is neither in the inbox of {queue}, nor waiting, nor dead"
                found.append(Doubt("undelivered", message_id, detail, f"tutti logs {owner_of(queue)}"))
    return found


def _operations(evidence: Evidence) -> list[Doubt]:
    known = {saga["id"] for saga in evidence.sagas}
    found = []
    for service, facts in evidence.facts.items():
        retrying = {row[4] for row in facts["retries"]}
        for operation_id, saga_id, state, do_type, done, undone, pending, dead_do, dead_undo in facts["operations"]:
            if saga_id not in known and (done or pending):
                detail = f"{do_type} took effect in {service} for a saga that the orchestrator does not know ({saga_id})"
                found.append(Doubt("unexplained", operation_id, detail, f"tutti saga show {saga_id}"))
            reason = done or undone or pending or dead_do or dead_undo or operation_id in retrying | evidence.dead_operations
            if state == "claimed" and not reason:
                detail = f"{do_type or 'a command'} in {service} has no outcome, and nothing that would still bring one"
                found.append(Doubt("unanswered", operation_id, detail, f"tutti saga show {saga_id}"))
    return found


def _findings(evidence: Evidence) -> list[Doubt]:
    return [
        Doubt(finding["kind"], finding["id"], finding["detail"], finding["command"])
        for facts in evidence.facts.values()
        for finding in facts["findings"]
    ]
