from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.compliance.v1 import PartiesBlocked, PartiesCleared, Party, ReviewNeeded, ScreenParties
from contracts.envelope import Envelope
from contracts.values import OrderLine
from infra.chassis.service import Context, Decision
from services.compliance.denied import Alias, DeniedParties, Kind, ListedParty
from services.compliance.domain import Outcome, RestrictedGoods, ScreeningLists, Thresholds, TradeRules
from services.compliance.handlers import screen_parties
from services.compliance.screening import ScreeningRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDER = "ord_00000000000000000001"
CONTEXT = Context(
    now=NOW,
    envelope=Envelope(id="m-1", source="/test", type="t", time=NOW, data={}, operationid="s:screen-buyer"),
    new_id=lambda: "id",
    random=lambda: 0.5,
)
LISTED = (
    ListedParty("9001", "OSTRAVELLE HOLDINGS LTD.", Kind.ENTITY, ("SAMPLE-EXPORT",), countries=frozenset({"MT"})),
    ListedParty("9002", "MIRANDOLE STAR", Kind.VESSEL, ("SAMPLE-EXPORT",), (Alias("MIRANDOLE SUN"),)),
    ListedParty("9003", f"QUELLBRANDT\tVARSOVIN {'X' * 300}", Kind.ENTITY, ("P" * 90,) * 50),
    ListedParty("9004", "BRELLENDO KASTAMIR TRADING", Kind.ENTITY, ("SAMPLE-EXPORT",)),
)
LISTS = ScreeningLists(
    denied=DeniedParties(LISTED, version="2026-01-31.abc"),
    rules=TradeRules(
        embargoed={"KP": "no trade at all"},
        restricted=(RestrictedGoods("arms", "arms and ammunition", frozenset({"SY"}), sku_prefixes=("ARMS-",)),),
        version="rules-1",
    ),
)


def command(*parties: tuple[str, str | None], sku: str = "P-1") -> ScreenParties:
    return ScreenParties(
        order_id=ORDER,
        parties=tuple(Party(name=name, country=country) for name, country in parties),
        items=(OrderLine(line="1", sku=sku, quantity=Decimal(1), unit="C62"),),
    )


def record_of(decision: Decision[ScreeningLists]) -> ScreeningRecord:
    (fact,) = decision.facts
    assert isinstance(fact, ScreeningRecord)
    return fact


def test_an_order_that_resembles_nobody_is_cleared_under_the_version_of_the_lists() -> None:
    decision = screen_parties(command(("Blumenhaus Tulpe", None), ("Lager Nord", "DE")), LISTS, CONTEXT)

    assert decision.state is LISTS
    assert decision.answer == PartiesCleared(order_id=ORDER, list_version="2026-01-31.abc/rules-1")
    assert decision.facts == (ScreeningRecord("s:screen-buyer", ORDER, "2026-01-31.abc/rules-1", Outcome.CLEARED, None, NOW),)


@pytest.mark.parametrize("position", [0, 1])
def test_a_listed_party_blocks_as_buyer_and_as_ship_to_and_is_named_only_in_the_match(position: int) -> None:
    parties: list[tuple[str, str | None]] = [("Blumenhaus Tulpe", None), ("Lager Nord", "DE")]
    parties[position] = ("Ostravelle Holdings Ltd", parties[position][1])

    decision = screen_parties(command(*parties), LISTS, CONTEXT)

    assert isinstance(decision.answer, PartiesBlocked)
    assert [reason.code for reason in decision.answer.reasons] == ["denied-party"]
    assert "ostravelle" not in decision.answer.reasons[0].detail.lower()
    match = decision.answer.best_match
    assert match is not None
    assert (match.uid, match.listed, match.party) == ("9001", "OSTRAVELLE HOLDINGS LTD.", "Ostravelle Holdings Ltd")
    assert record_of(decision).verdict is Outcome.BLOCKED
    assert record_of(decision).best_score == match.score


def test_what_is_not_conclusive_is_for_a_person_to_judge() -> None:
    decision = screen_parties(command(("Mirandole Star", None), ("Lager Nord", "DE")), LISTS, CONTEXT)

    assert isinstance(decision.answer, ReviewNeeded)
    assert [reason.code for reason in decision.answer.reasons] == ["possible-denied-party"]
    assert decision.answer.best_match == decision.answer.matches[0]
    assert decision.answer.best_match.uid == "9002"
    assert record_of(decision).verdict is Outcome.REVIEW


def test_the_thresholds_are_those_of_the_settings() -> None:
    near = command(("Brelendo Kastamir", None), ("Lager Nord", "DE"))
    score = record_of(screen_parties(near, LISTS, CONTEXT, thresholds=Thresholds(72, 100))).best_score
    assert score is not None
    assert 72 <= score < 100

    strict = screen_parties(near, LISTS, CONTEXT, thresholds=Thresholds(72, score))
    lenient = screen_parties(near, LISTS, CONTEXT, thresholds=Thresholds(score + 1, 100))

    assert isinstance(strict.answer, PartiesBlocked)
    assert isinstance(lenient.answer, PartiesCleared)
    assert lenient.answer.best_match is not None
    assert lenient.answer.best_match.score == score


def test_an_embargoed_destination_and_restricted_goods_block_together_with_their_reasons() -> None:
    embargoed = screen_parties(command(("Blumenhaus Tulpe", None), ("Lager Nord", "KP")), LISTS, CONTEXT)
    restricted = screen_parties(command(("Blumenhaus Tulpe", None), ("Lager Nord", "SY"), sku="ARMS-1"), LISTS, CONTEXT)

    assert isinstance(embargoed.answer, PartiesBlocked)
    assert [reason.code for reason in embargoed.answer.reasons] == ["embargoed-country"]
    assert isinstance(restricted.answer, PartiesBlocked)
    assert [reason.code for reason in restricted.answer.reasons] == ["restricted-goods"]
    assert "ARMS-1" in restricted.answer.reasons[0].detail


def test_goods_are_judged_by_the_last_partys_country_and_embargoes_by_everybodys() -> None:
    away = screen_parties(command(("Blumenhaus Tulpe", "SY"), ("Lager Nord", "DE"), sku="ARMS-1"), LISTS, CONTEXT)
    buyer = screen_parties(command(("Blumenhaus Tulpe", "KP"), ("Lager Nord", "DE")), LISTS, CONTEXT)

    assert isinstance(away.answer, PartiesCleared)
    assert isinstance(buyer.answer, PartiesBlocked)


def test_without_a_destination_nothing_is_cleared() -> None:
    decision = screen_parties(command(("Blumenhaus Tulpe", None)), LISTS, CONTEXT)

    assert isinstance(decision.answer, PartiesBlocked)
    assert [reason.code for reason in decision.answer.reasons] == ["unknown-destination"]
    assert record_of(decision).verdict is Outcome.BLOCKED


@pytest.mark.parametrize("name", ["...", "公司"])
def test_a_name_that_cannot_be_read_is_for_a_person_to_judge(name: str) -> None:
    decision = screen_parties(command((name, None), ("Lager Nord", "DE")), LISTS, CONTEXT)

    assert isinstance(decision.answer, ReviewNeeded)
    [reason] = decision.answer.reasons
    assert reason.code == "unreadable-name"
    assert "the name of the buyer" in reason.detail
    assert "cannot be compared" in reason.detail
    assert (decision.answer.best_match, decision.answer.matches) == (None, ())
    assert record_of(decision).verdict is Outcome.REVIEW


def test_a_name_that_cannot_be_read_does_not_soften_a_block() -> None:
    decision = screen_parties(command(("...", None), ("Ostravelle Holdings Ltd", "DE")), LISTS, CONTEXT)

    assert isinstance(decision.answer, PartiesBlocked)
    assert [reason.code for reason in decision.answer.reasons] == ["denied-party", "unreadable-name"]


def test_an_entry_longer_than_a_message_may_be_is_cut_and_still_answered() -> None:
    name = f"Quellbrandt Varsovin {'X' * 170}"

    decision = screen_parties(command((name, None), ("Lager Nord", "DE")), LISTS, CONTEXT)

    assert isinstance(decision.answer, PartiesBlocked | ReviewNeeded)
    assert decision.answer.best_match is not None
    assert decision.answer.best_match.uid == "9003"
    assert len(decision.answer.best_match.programs) == 30


def test_the_same_reason_is_told_once() -> None:
    listed = "Ostravelle Holdings Ltd"

    decision = screen_parties(command((listed, None), (listed, "DE"), (listed, "MT")), LISTS, CONTEXT)

    assert isinstance(decision.answer, PartiesBlocked)
    assert len(decision.answer.reasons) == 1
