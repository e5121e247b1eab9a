"""What compliance does with each message: the order and the lists in force in, the answer and its record out."""

from collections.abc import Sequence

from contracts.compliance.v1 import Match, PartiesBlocked, PartiesCleared, ReviewNeeded, ScreenParties
from contracts.compliance.v1 import Party as NamedParty
from contracts.values import TEXT_LENGTH_MAX, Reason
from infra.chassis.service import Context, Decision
from services.compliance import domain
from services.compliance.domain import (
    DEFAULT_THRESHOLDS,
    Item,
    Outcome,
    Party,
    ReasonCode,
    Resemblance,
    ScreeningLists,
    Thresholds,
    Verdict,
)
from services.compliance.screening import ScreeningRecord

REASONS_MAX = 20
PROGRAMS_MAX = 30
PROGRAM_LENGTH_MAX = 40
DETAIL_LENGTH_MAX = 1000

_CONTROLS = dict.fromkeys((*range(0x20), 0x7F), " ")

# Reasons travel to the partner, who must not learn from us whom the lists name. What a person needs in order to judge
# is in the answer's matches.
_DETAILS = {
    ReasonCode.DENIED_PARTY: "a party of the order is on a denied-party list",
    ReasonCode.POSSIBLE_DENIED_PARTY: "the name of a party of the order resembles one on a denied-party list",
}


def screen_parties(
    command: ScreenParties, lists: ScreeningLists, context: Context, *, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Decision[ScreeningLists]:
    """The destination is the last party whose country is known: an order names its buyer first and its ship-to last.

    Without a destination neither embargoes nor rules for goods can be checked, so nothing is cleared.
    """
    destination = next((party.country for party in reversed(command.parties) if party.country is not None), None)
    if destination is None:
        reason = Reason(code="unknown-destination", detail="no party has a country, so the destination is not known")
        refusal = PartiesBlocked(order_id=command.order_id, list_version=lists.version, reasons=(reason,))
        return Decision(lists, refusal, facts=(_record(command, context, lists.version, Outcome.BLOCKED, None),))
    verdict = domain.decide(
        _parties(command.parties),
        [Item(line.sku) for line in command.items],
        destination,
        lists,
        thresholds=thresholds,
    )
    answer = _answer(command.order_id, verdict)
    score = verdict.nearest.match.score if verdict.nearest else None
    return Decision(lists, answer, facts=(_record(command, context, verdict.list_version, verdict.outcome, score),))


def _parties(named: Sequence[NamedParty]) -> list[Party]:
    return [Party("ship-to" if party.country else "buyer", party.name, party.country) for party in named]


def _answer(order_id: str, verdict: Verdict) -> PartiesCleared | PartiesBlocked | ReviewNeeded:
    nearest = _match(verdict.nearest) if verdict.nearest else None
    if verdict.outcome is Outcome.CLEARED:
        return PartiesCleared(order_id=order_id, list_version=verdict.list_version, best_match=nearest)
    reasons = _reasons(verdict)
    if verdict.outcome is Outcome.BLOCKED:
        return PartiesBlocked(order_id=order_id, list_version=verdict.list_version, reasons=reasons, best_match=nearest)
    # A name that cannot be read is for a person to judge, too, although there is no listed party to compare it with.
    return ReviewNeeded(
        order_id=order_id,
        list_version=verdict.list_version,
        reasons=reasons,
        best_match=nearest,
        matches=tuple(_match(resemblance) for resemblance in verdict.resemblances),
    )


def _reasons(verdict: Verdict) -> tuple[Reason, ...]:
    told = {(reason.code, _DETAILS.get(reason.code, reason.text)[:DETAIL_LENGTH_MAX]): None for reason in verdict.reasons}
    return tuple(Reason(code=code.value, detail=detail) for code, detail in list(told)[:REASONS_MAX])


def _match(resemblance: Resemblance) -> Match:
    """Lists are longer-winded than messages may be, and less tidy; what is cut is found in the list by its uid."""
    match = resemblance.match
    return Match(
        party=resemblance.party.name,
        listed=match.listed_name.translate(_CONTROLS)[:TEXT_LENGTH_MAX],
        uid=match.uid,
        programs=tuple(program[:PROGRAM_LENGTH_MAX] for program in match.programs[:PROGRAMS_MAX]),
        score=match.score,
    )


def _record(
    command: ScreenParties, context: Context, list_version: str, verdict: Outcome, best_score: int | None
) -> ScreeningRecord:
    return ScreeningRecord(
        operation_id=context.operation_id,
        order_id=command.order_id,
        list_version=list_version,
        verdict=verdict,
        best_score=best_score,
        at=context.now,
    )
