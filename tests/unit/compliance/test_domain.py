"""The index over a denied-party list, and the verdict on an order."""

import random
from collections.abc import Sequence

import pytest

from services.compliance.denied import (
    MATCHES_MAX,
    WEAK_ALIAS_DISCOUNT,
    Alias,
    DeniedParties,
    Kind,
    ListedParty,
)
from services.compliance.domain import (
    Item,
    Outcome,
    Party,
    ReasonCode,
    RestrictedGoods,
    ScreeningLists,
    Thresholds,
    TradeRules,
    Verdict,
    decide,
)

ZARVONI = ListedParty(
    uid="1",
    name="ZARVONI, Teodric Maelen",
    kind=Kind.INDIVIDUAL,
    programs=("SAMPLE-WMD", "SAMPLE-EXPORT"),
    aliases=(Alias("SARVENI, Teo"), Alias("GREY CARTOGRAPHER", weak=True)),
    countries=frozenset({"EE"}),
)
OSTRAVELLE = ListedParty("2", "OSTRAVELLE MARITIME LTD.", Kind.ENTITY, ("SAMPLE-EXPORT",))
PELLAGONE = ListedParty("3", "MV PELLAGONE STAR", Kind.VESSEL, ("SAMPLE-EXPORT",))
HEXAMOTH = ListedParty("4", "HEXAMOTH", Kind.ENTITY)
ACRONYM = ListedParty("5", "B.P.I. Co.", Kind.ENTITY)

RULES = TradeRules(
    embargoed={"KP": "no trade"},
    restricted=(
        RestrictedGoods(
            rule="dual-use",
            reason="navigation",
            countries=frozenset({"RU"}),
            goods_classes=frozenset({"radar"}),
            hs_prefixes=("8526",),
            sku_prefixes=("DUAL-",),
        ),
    ),
    version="rules-1",
)


def denied(*parties: ListedParty) -> DeniedParties:
    return DeniedParties(parties or (ZARVONI, OSTRAVELLE, PELLAGONE, HEXAMOTH, ACRONYM), version="list-1")


def judge(
    *names: str,
    items: Sequence[Item] = (),
    destination: str = "DE",
    country: str | None = None,
    thresholds: Thresholds | None = None,
) -> Verdict:
    parties = [Party(role, name, country) for role, name in zip(("buyer", "ship-to"), names, strict=False)]
    lists = ScreeningLists(denied(), RULES)
    return decide(parties, items, destination, lists, thresholds=thresholds or Thresholds())


def codes(verdict: Verdict) -> list[ReasonCode]:
    return [reason.code for reason in verdict.reasons]


def test_finds_a_listed_party_by_its_name_and_says_where_it_is_listed() -> None:
    [match] = denied().screen("Teodric Maelen Zarvoni")

    assert (match.uid, match.score, match.conclusive) == ("1", 100, True)
    assert match.listed_name == "ZARVONI, Teodric Maelen"
    assert match.programs == ("SAMPLE-WMD", "SAMPLE-EXPORT")


def test_an_alias_counts_like_the_name_and_the_entry_appears_once() -> None:
    [match] = denied().screen("Teo Sarveni")

    assert (match.uid, match.score, match.matched_name) == ("1", 100, "SARVENI, Teo")


def test_a_weak_alias_counts_less_and_decides_nothing() -> None:
    [match] = denied().screen("Grey Cartographer")

    assert match.score == 100 - WEAK_ALIAS_DISCOUNT
    assert not match.conclusive


def test_a_ship_decides_nothing_because_it_cannot_buy() -> None:
    [match] = denied().screen("Pellagone Star")

    assert match.score >= 95
    assert not match.conclusive


def test_one_word_identifies_a_company_only_when_it_is_exact_and_long() -> None:
    assert denied().screen("Hexamoth Ltd")[0].conclusive
    assert not denied().screen("Hexamot Ltd")[0].conclusive
    assert not denied().screen("BPI Ltd")[0].conclusive


def test_words_run_together_are_found() -> None:
    assert [match.uid for match in denied().screen("TeodricMaelenZarvoni")] == ["1"]
    assert [match.uid for match in denied().screen("Ostravellemaritime")] == ["2"]
    assert [match.uid for match in denied().screen("Hexa Moth")] == ["4"]


def test_a_country_that_agrees_comes_first_between_equals_but_changes_no_score() -> None:
    elsewhere = ListedParty("0", ZARVONI.name, Kind.INDIVIDUAL, countries=frozenset({"PE"}))
    found = denied(elsewhere, ZARVONI).screen(ZARVONI.name, "EE")

    assert [(match.uid, match.score, match.country_agrees) for match in found] == [
        ("1", 100, True),
        ("0", 100, False),
    ]


def test_the_number_of_matches_is_bounded() -> None:
    many = [ListedParty(str(uid), ZARVONI.name, Kind.INDIVIDUAL) for uid in range(500)]

    assert len(denied(*many).screen(ZARVONI.name)) == MATCHES_MAX


def test_an_empty_list_matches_nobody() -> None:
    assert DeniedParties((), version="empty").screen("Teodric Zarvoni") == ()


def test_the_shortcut_finds_what_comparing_with_everything_finds() -> None:
    randomness = random.Random(5)
    syllables = ("bra", "vel", "dor", "min", "tas", "kel", "ur", "zan", "ost", "lim", "pag", "rov")
    names = [
        " ".join("".join(randomness.choices(syllables, k=randomness.randint(2, 3))) for _ in range(randomness.randint(1, 3)))
        for _ in range(300)
    ]
    parties = denied(*(ListedParty(str(uid), name, Kind.ENTITY) for uid, name in enumerate(names)))

    for name in names[:100]:
        position = randomness.choice([i for i, letter in enumerate(name) if letter != " "])
        slipped = name[:position] + randomness.choice("aeiorst") + name[position + 1 :]
        everything = parties.compare_with_all(slipped)
        found = {match.uid for match in parties.screen(slipped)}
        assert found <= everything
        assert found == everything or len(found) == MATCHES_MAX, f"lost some of {len(everything)} for {slipped!r}"


def test_clears_an_order_against_which_nothing_speaks() -> None:
    verdict = judge("Ernestine Holluween", "Warehouse Nord GmbH", items=[Item("BOLT-1")])

    assert verdict.outcome is Outcome.CLEARED
    assert verdict.reasons == ()
    assert verdict.nearest is None
    assert verdict.list_version == "list-1/rules-1"


def test_blocks_a_denied_ship_to_even_when_the_buyer_is_clear() -> None:
    verdict = judge("Ernestine Holluween", "Ostravelle Maritime Limited")

    assert verdict.outcome is Outcome.BLOCKED
    assert codes(verdict) == [ReasonCode.DENIED_PARTY]
    assert verdict.nearest is not None
    assert verdict.nearest.party.role == "ship-to"
    assert verdict.nearest.match.uid == "2"


def test_a_likeness_between_the_thresholds_goes_to_review() -> None:
    verdict = judge("Teodric Zarvoni")

    assert verdict.outcome is Outcome.REVIEW
    assert codes(verdict) == [ReasonCode.POSSIBLE_DENIED_PARTY]
    assert verdict.resemblances[0].match.uid == "1"


def test_a_likeness_below_review_clears_and_still_shows_how_close_it_came() -> None:
    verdict = judge("Teodric Zarvoni", thresholds=Thresholds(review=98, block=100))

    assert verdict.outcome is Outcome.CLEARED
    assert verdict.resemblances == ()
    assert verdict.nearest is not None
    assert 72 <= verdict.nearest.match.score < 98


def test_what_is_not_conclusive_is_reviewed_whatever_its_score() -> None:
    verdict = judge("Pellagone Star")

    assert verdict.outcome is Outcome.REVIEW


def test_a_name_in_a_script_that_cannot_be_compared_goes_to_review() -> None:
    verdict = judge("محمد")

    assert verdict.outcome is Outcome.REVIEW
    assert codes(verdict) == [ReasonCode.UNREADABLE_NAME]
    assert verdict.nearest is None


def test_blocks_an_embargoed_destination_and_says_it_once() -> None:
    verdict = judge("Ernestine Holluween", "Warehouse", destination="KP", country="KP")

    assert verdict.outcome is Outcome.BLOCKED
    assert codes(verdict) == [ReasonCode.EMBARGOED_COUNTRY]


def test_blocks_a_party_in_an_embargoed_country_that_has_goods_sent_elsewhere() -> None:
    verdict = judge("Ernestine Holluween", destination="DE", country="KP")

    assert codes(verdict) == [ReasonCode.EMBARGOED_COUNTRY]
    assert "buyer" in verdict.reasons[0].text


@pytest.mark.parametrize(
    "item",
    [
        Item("DUAL-7"),
        Item("X", goods_class="radar"),
        Item("X", hs_code="8526.10"),
        Item("X", hs_code="85261000"),
    ],
)
def test_blocks_restricted_goods_by_any_selector(item: Item) -> None:
    assert codes(judge("Ernestine Holluween", items=[item], destination="RU")) == [ReasonCode.RESTRICTED_GOODS]
    assert judge("Ernestine Holluween", items=[item], destination="DE").outcome is Outcome.CLEARED


def test_collects_every_reason_and_puts_the_worst_first() -> None:
    verdict = judge("Teodric Zarvoni", "Hexamoth", items=[Item("DUAL-7")], destination="RU")

    assert verdict.outcome is Outcome.BLOCKED
    assert sorted(codes(verdict)) == [
        ReasonCode.DENIED_PARTY,
        ReasonCode.POSSIBLE_DENIED_PARTY,
        ReasonCode.RESTRICTED_GOODS,
    ]
    assert verdict.reasons[-1].code is ReasonCode.POSSIBLE_DENIED_PARTY


def test_the_same_order_gets_the_same_verdict() -> None:
    assert judge("Teodric Zarvoni", "Hexamoth") == judge("Teodric Zarvoni", "Hexamoth")


@pytest.mark.parametrize(("review", "block"), [(90, 80), (50, 95), (80, 101)])
def test_refuses_thresholds_that_cannot_work(review: int, block: int) -> None:
    with pytest.raises(ValueError, match="thresholds"):
        Thresholds(review=review, block=block)
