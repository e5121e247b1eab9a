"""A denied-party list that can be searched by name; without it, screening would compare with every entry.

Two parties are screened in the path of every order, so the index finds the few listed names that are worth a
comparison, instead of comparing with all of them: see `DeniedParties`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final

from services.compliance.likeness import (
    CONFLICT_COST,
    EXTRA_COST,
    EXTRA_WEIGHT_MAX,
    as_points,
    compare,
    skeleton,
    token_similarity,
)
from services.compliance.names import GENERIC, STRONG, Name, normalise

MATCH_SCORE_MIN: Final = 72
"""The least score that the index finds: above what one agreeing token earns, below any threshold."""

MATCHES_MAX: Final = 10
COMPARISONS_MAX: Final = 200
CACHED_NAMES_MAX: Final = 20_000
CACHED_TOKENS_MAX: Final = 50_000
RUN_TOGETHER_TOKENS_MAX: Final = 4

WEAK_ALIAS_DISCOUNT: Final = 5
"""Points off for a weak alias: the publisher itself calls it broad and likely to hit the wrong person."""

CONCLUSIVE_LETTERS_MIN: Final = 5
"""A company with one distinctive word in its name is told by it only if it is this long: not by "ABC"."""


class Kind(StrEnum):
    INDIVIDUAL = "individual"
    ENTITY = "entity"
    VESSEL = "vessel"
    AIRCRAFT = "aircraft"


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    weak: bool = False


@dataclass(frozen=True, slots=True)
class ListedParty:
    """One entry of a denied-party list; `countries` are ISO 3166 alpha-2 codes of its known addresses."""

    uid: str
    name: str
    kind: Kind
    programs: tuple[str, ...] = ()
    aliases: tuple[Alias, ...] = ()
    countries: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Match:
    """A listed party that a screened name resembles.

    `conclusive` says whether the resemblance may refuse an order by itself. It may not when it rests on a
    weak alias or on one word of a person's name, nor when the entry is a ship or an aircraft, which cannot
    buy: then a person looks first.
    """

    uid: str
    listed_name: str
    matched_name: str
    kind: Kind
    programs: tuple[str, ...]
    score: int
    conclusive: bool
    country_agrees: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """One way of writing one listed party, ready for comparing."""

    party: ListedParty
    text: str
    weak: bool
    name: Name
    strong_count: int


@dataclass(frozen=True, slots=True)
class _Hit:
    written: _Written
    score: int
    agreeing_tokens: int


class DeniedParties:
    """An immutable, searchable denied-party list; `version` names its content and its date.

    Finding candidates: each distinctive token of a listed name is kept under its skeleton, whole and with any
    one letter left out, and a long one under its beginning and its end. So a token of the query reaches every
    token within one edit, and nearly every one within two. The tokens reached give a bound on the score of each
    listed name, and only names whose bound reaches `MATCH_SCORE_MIN` are compared in full.
    Words run together are reached through joined neighbours. docs/screening.md measures what the shortcut
    loses against comparing with everything.

    Results are cached by comparable form. The cache belongs to the index: a new list starts afresh.
    """

    def __init__(self, parties: Iterable[ListedParty], *, version: str) -> None:
        self.version = version
        self.parties = tuple(parties)
        self._written = tuple(_written(self.parties))
        self._by_token: dict[str, list[int]] = defaultdict(list)
        self._by_joined: dict[str, list[int]] = defaultdict(list)
        self._by_key: dict[str, list[str]] = defaultdict(list)
        for position, written in enumerate(self._written):
            for token in set(written.name.strong):
                self._by_token[token].append(position)
            for joined in _run_together(written.name):
                self._by_joined[joined].append(position)
        for token in self._by_token:
            for key in _keys(token):
                self._by_key[key].append(token)
        for index in (self._by_token, self._by_joined, self._by_key):
            # Looking up a name that is not listed must not grow the index.
            index.default_factory = None
        self._similar_tokens = lru_cache(maxsize=CACHED_TOKENS_MAX)(self._find_similar_tokens)
        self._hits = lru_cache(maxsize=CACHED_NAMES_MAX)(self._find_hits)

    def __len__(self) -> int:
        return len(self.parties)

    def screen(self, name: str, country: str | None = None) -> tuple[Match, ...]:
        """The listed parties that a name resembles with at least `MATCH_SCORE_MIN` points, best first.

        Each entry appears once, under the way of writing it that fits best; at most MATCHES_MAX entries. The
        country is evidence for the reviewer, and decides between equal scores. It never lowers a score: a denied
        party that orders from elsewhere is exactly the one to find.
        """
        best: dict[str, Match] = {}
        for hit in self._hits(normalise(name)):
            match = _match(hit, country)
            known = best.get(match.uid)
            if known is None or rank(match) < rank(known):
                best[match.uid] = match
        return tuple(sorted(best.values(), key=rank)[:MATCHES_MAX])

    def compare_with_all(self, name: str) -> frozenset[str]:
        """The uids within `MATCH_SCORE_MIN`, found without the shortcut: slow, to measure what it loses."""
        hits = (_hit(normalise(name), written) for written in self._written)
        return frozenset(hit.written.party.uid for hit in hits if hit.score >= MATCH_SCORE_MIN)

    def _find_hits(self, query: Name) -> tuple[_Hit, ...]:
        hits = (_hit(query, self._written[position]) for position in self._candidates(query))
        return tuple(hit for hit in hits if hit.score >= MATCH_SCORE_MIN)

    def _candidates(self, query: Name) -> list[int]:
        """Positions of the written names worth a comparison, the best first, at most COMPARISONS_MAX."""
        reached: dict[int, int] = defaultdict(int)
        agreed: dict[int, float] = defaultdict(float)
        strong, weak_weight = query.strong, sum(weight for weight in query.weights if weight < STRONG)
        for token in strong:
            for similar, similarity in self._similar_tokens(token):
                for position in self._by_token[similar]:
                    reached[position] += 1
                    agreed[position] += similarity
        bounds = {}
        for position, count in reached.items():
            listed_count = self._written[position].strong_count
            bound = _bound(count, agreed[position], weak_weight, len(strong), listed_count)
            if bound * 100 >= MATCH_SCORE_MIN:
                bounds[position] = bound
        run_together = _run_together(query)
        for joined in run_together.union(strong):
            bounds.update(dict.fromkeys(self._by_joined.get(joined, ()), 1.0))
        for joined in run_together:
            bounds.update(dict.fromkeys(self._by_token.get(joined, ()), 1.0))
        return sorted(bounds, key=lambda position: -bounds[position])[:COMPARISONS_MAX]

    def _find_similar_tokens(self, token: str) -> tuple[tuple[str, float], ...]:
        reached = {listed for key in _keys(token) for listed in self._by_key.get(key, ())}
        return tuple((listed, similarity) for listed in reached if (similarity := token_similarity(token, listed)))


def _match(hit: _Hit, country: str | None) -> Match:
    written = hit.written
    cannot_buy = written.party.kind in (Kind.VESSEL, Kind.AIRCRAFT)
    return Match(
        uid=written.party.uid,
        listed_name=written.party.name,
        matched_name=written.text,
        kind=written.party.kind,
        programs=written.party.programs,
        score=hit.score,
        conclusive=not written.weak and not cannot_buy and _tells_apart(hit),
        country_agrees=country in written.party.countries,
    )


def _tells_apart(hit: _Hit) -> bool:
    """Whether enough agrees to be conclusive: two distinctive words, or a company's only one, exactly."""
    if hit.agreeing_tokens >= 2:
        return True
    alone = hit.agreeing_tokens == 1 and hit.score == 100 and hit.written.party.kind is Kind.ENTITY
    return alone and max(map(len, hit.written.name.strong), default=0) >= CONCLUSIVE_LETTERS_MIN


def rank(match: Match) -> tuple[int, bool, bool, str]:
    """Sort key that puts the match first that a reviewer should see first."""
    return (-match.score, not match.conclusive, not match.country_agrees, match.uid)


def _written(parties: Iterable[ListedParty]) -> Iterator[_Written]:
    for party in parties:
        for alias in (Alias(party.name), *party.aliases):
            name = normalise(alias.name)
            if name.tokens:
                yield _Written(party, alias.name, alias.weak, name, len(name.strong))


def _hit(query: Name, written: _Written) -> _Hit:
    likeness = compare(query, written.name)
    discount = WEAK_ALIAS_DISCOUNT if written.weak else 0
    return _Hit(written, max(0, as_points(likeness.score) - discount), likeness.agreeing_tokens)


def _bound(reached: int, agreed: float, weak_weight: float, query_count: int, listed_count: int) -> float:
    """The highest score of two names of which that many distinctive tokens reach each other.

    A token that is reached twice makes the bound too high, never too low. So does taking the query's weak
    tokens for agreeing.
    """
    paired = min(reached, query_count, listed_count)
    conflict = min(query_count, listed_count) - paired
    extra = min(abs(query_count - listed_count), EXTRA_WEIGHT_MAX)
    all_weight = paired + weak_weight + CONFLICT_COST * conflict + EXTRA_COST * extra
    return (min(agreed, paired) + weak_weight) / all_weight


def _run_together(name: Name) -> set[str]:
    """The name without its gaps, and each two neighbours without theirs."""
    tokens = name.tokens
    joined = {first + second for first, second in pairwise(tokens)}
    if 2 < len(tokens) <= RUN_TOGETHER_TOKENS_MAX or all(weight <= GENERIC for weight in name.weights):
        joined.add(name.joined)
    return joined


def _keys(token: str) -> set[str]:
    sounds = skeleton(token)
    keys = {sounds, token}
    if len(sounds) > 3:
        keys.update(sounds[:i] + sounds[i + 1 :] for i in range(len(sounds)))
    if len(sounds) > 7:
        keys.update((f"^{sounds[:4]}", f"{sounds[-4:]}$"))
    return keys
