"""What must not be shipped, and to whom: embargoes, restricted goods, denied parties, and the verdict."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.compliance.denied import MATCH_SCORE_MIN, MATCHES_MAX, DeniedParties, Match, rank
from services.compliance.names import normalise

SKUS_SHOWN_MAX: Final = 5


class Outcome(StrEnum):
    CLEARED = "cleared"
    REVIEW = "review"
    BLOCKED = "blocked"


class ReasonCode(StrEnum):
    EMBARGOED_COUNTRY = "embargoed-country"
    RESTRICTED_GOODS = "restricted-goods"
    DENIED_PARTY = "denied-party"
    POSSIBLE_DENIED_PARTY = "possible-denied-party"
    UNREADABLE_NAME = "unreadable-name"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an order is not simply cleared. `text` may name a listed party: for operators, not for partners."""

    code: ReasonCode
    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Party:
    """Who takes part in an order, in a role such as "buyer" or "ship-to"; country is ISO 3166 alpha-2."""

    role: str
    name: str
    country: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What an order line ships, as far as trade rules look at it; `hs_code` is of the Harmonized System."""

    sku: str
    goods_class: str | None = None
    hs_code: str | None = None


@dataclass(frozen=True, slots=True)
class RestrictedGoods:
    """Goods that may not go to some countries: an item is meant when any one of the selectors fits it."""

    rule: str
    reason: str
    countries: frozenset[str]
    goods_classes: frozenset[str] = frozenset()
    hs_prefixes: tuple[str, ...] = ()
    sku_prefixes: tuple[str, ...] = ()

    def covers(self, item: Item) -> bool:
        return (
            item.goods_class in self.goods_classes
            or (item.hs_code is not None and item.hs_code.replace(".", "").startswith(self.hs_prefixes))
            or item.sku.startswith(self.sku_prefixes)
        )


@dataclass(frozen=True, slots=True)
class TradeRules:
    """Embargoed countries with their reasons, restricted goods, and the version that answers record."""

    embargoed: Mapping[str, str]
    restricted: tuple[RestrictedGoods, ...]
    version: str


@dataclass(frozen=True, slots=True)
class ScreeningLists:
    """Everything an order is screened against, replaced as one."""

    denied: DeniedParties
    rules: TradeRules

    @property
    def version(self) -> str:
        return f"{self.denied.version}/{self.rules.version}"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Points from which a match is reviewed, and from which a conclusive one refuses the order."""

    review: int = 80
    block: int = 95

    def __post_init__(self) -> None:
        if not MATCH_SCORE_MIN <= self.review <= self.block <= 100:
            raise ValueError(
                f"thresholds must satisfy {MATCH_SCORE_MIN} <= review <= block <= 100, "
                f"not review={self.review}, block={self.block}"
            )


@dataclass(frozen=True, slots=True)
class Resemblance:
    """One party of the order and a listed party that its name resembles."""

    party: Party
    match: Match


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one order, with the version of the lists that it rests on.

    Reasons come worst first. `resemblances` are those that reach the review threshold, best first. `nearest`
    is the best of all that were found, also when it stayed below: it shows how close a cleared order came. It
    is None when nothing came near, even with outcome REVIEW, which then says that a name could not be read.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...]
    resemblances: tuple[Resemblance, ...]
    nearest: Resemblance | None
    list_version: str


DEFAULT_THRESHOLDS: Final = Thresholds()


def decide(
    parties: Sequence[Party],
    items: Sequence[Item],
    destination: str,
    lists: ScreeningLists,
    *,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Verdict:
    """Screen one order. Every reason is collected, not only the first: a reviewer should see them all.

    The same order against the same lists gives the same verdict, however often.
    """
    found = [Resemblance(party, match) for party in parties for match in lists.denied.screen(party.name, party.country)]
    found.sort(key=lambda resemblance: rank(resemblance.match))
    near = [resemblance for resemblance in found if resemblance.match.score >= thresholds.review]
    reasons = [
        *_embargoes(parties, destination, lists.rules),
        *_restrictions(items, destination, lists.rules),
        *(_resembles(resemblance, thresholds) for resemblance in near),
        *(_unreadable(party) for party in parties if not normalise(party.name).readable),
    ]
    reasons.sort(key=lambda reason: reason.outcome is not Outcome.BLOCKED)
    return Verdict(
        outcome=reasons[0].outcome if reasons else Outcome.CLEARED,
        reasons=tuple(reasons),
        resemblances=tuple(near[:MATCHES_MAX]),
        nearest=found[0] if found else None,
        list_version=lists.version,
    )


def _embargoes(parties: Sequence[Party], destination: str, rules: TradeRules) -> Iterator[Reason]:
    roles = {destination: "destination"}
    for party in parties:
        if party.country is not None:
            roles.setdefault(party.country, party.role)
    for country, role in roles.items():
        if country in rules.embargoed:
            text = f"{role} is in {country}: {rules.embargoed[country]}"
            yield Reason(ReasonCode.EMBARGOED_COUNTRY, Outcome.BLOCKED, text)


def _restrictions(items: Sequence[Item], destination: str, rules: TradeRules) -> Iterator[Reason]:
    for rule in rules.restricted:
        skus = sorted({item.sku for item in items if rule.covers(item)})
        if skus and destination in rule.countries:
            shown = ", ".join(skus[:SKUS_SHOWN_MAX]) + (", ..." if len(skus) > SKUS_SHOWN_MAX else "")
            text = f"{shown} may not go to {destination} by rule {rule.rule}: {rule.reason}"
            yield Reason(ReasonCode.RESTRICTED_GOODS, Outcome.BLOCKED, text)


def _resembles(resemblance: Resemblance, thresholds: Thresholds) -> Reason:
    party, match = resemblance.party, resemblance.match
    text = (
        f"{party.role} resembles {match.listed_name} (entry {match.uid}, {', '.join(match.programs)}) "
        f"with {match.score} of 100 points"
    )
    if match.conclusive and match.score >= thresholds.block:
        return Reason(ReasonCode.DENIED_PARTY, Outcome.BLOCKED, text)
    return Reason(ReasonCode.POSSIBLE_DENIED_PARTY, Outcome.REVIEW, text)


def _unreadable(party: Party) -> Reason:
    text = f"the name of the {party.role} is empty or in a script that cannot be compared with the list"
    return Reason(ReasonCode.UNREADABLE_NAME, Outcome.REVIEW, text)
