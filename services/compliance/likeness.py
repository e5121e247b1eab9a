"""How alike two names are, in points; without it, only exact spelling would be found.

The tokens of two names are paired, and what stays unpaired counts against the match. A token missing on *one*
side (a middle name, "Trading") costs little. A token that is *different* on both sides ("Ali" against "Omar")
costs more than a matching token earns, because two people share a family name more often than one person
changes half of a name. Edit distance over the whole string cannot tell the two apart, which is why it is used
on tokens only.

The score of a pair depends on the two names alone, never on the rest of the list: scores of two list versions
stay comparable, and thresholds can be calibrated on pairs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from rapidfuzz.distance import OSA

from services.compliance.names import GENERIC, INITIAL, STRONG, Name, normalise

CONFLICT_COST: Final = 1.5
"""A token that contradicts costs one and a half times what a token that agrees earns."""

EXTRA_COST: Final = 0.15
EXTRA_WEIGHT_MAX: Final = 2.0
"""A token that only one side writes costs little, and past the second nothing: lists write middle names."""

THIN_SCORE_MAX: Final = 0.70
"""The most that one agreeing token can earn when either side says more ("Omar", "Omar Farouk")."""

OUT_OF_ORDER: Final = 0.93
"""What is left of a score when the order differs: "Ahmad bin Hasan" may be the son of "Hasan bin Ahmad"."""

INITIAL_SIMILARITY: Final = 0.85
SKELETON_DISCOUNT: Final = 0.04

_FOLDS: Final = (
    ("ph", "f"), ("ck", "k"), ("kh", "h"), ("gh", "g"), ("dh", "d"), ("th", "t"), ("sch", "sh"), ("tz", "ts"),
    ("ks", "x"), ("ou", "u"), ("oo", "u"), ("ee", "i"), ("ue", "u"),
)  # fmt: skip
_FOLD_LETTERS: Final = str.maketrans("oeyjqwv", "uiiikvv")
_REPEATED: Final = re.compile(r"(.)\1+")


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two names are: score from 0 to 1, and how many distinctive tokens carry it."""

    score: float
    agreeing_tokens: int


def score(one: str, other: str) -> int:
    """How alike two written names are, 0 to 100; the order of the two does not matter."""
    return as_points(compare(normalise(one), normalise(other)).score)


def as_points(likeness: float) -> int:
    """The score from 0 to 1 in points from 0 to 100; 100 is kept for what agrees entirely."""
    return 100 if likeness >= 1.0 else int(likeness * 100)


def compare(one: Name, other: Name) -> Likeness:
    """Pair the tokens of two names and weigh what agrees against what contradicts, whichever comes first."""
    if not one.tokens or not other.tokens:
        return Likeness(0.0, 0)

    pairs = _pair(one, other)
    left = [i for i in range(len(one.tokens)) if i not in {i for _, i, _ in pairs}]
    right = [j for j in range(len(other.tokens)) if j not in {j for _, _, j in pairs}]
    weights = [(one.weights[i] + other.weights[j]) / 2 for _, i, j in pairs]
    agreed = sum(weight * similarity for weight, (similarity, _, _) in zip(weights, pairs, strict=True))
    weight = sum(weights)
    agreeing = sum(one.weights[i] == other.weights[j] == STRONG for _, i, j in pairs)
    initials = any((one.weights[i] == INITIAL) != (other.weights[j] == INITIAL) for _, i, j in pairs)

    left_weight, right_weight = sum(one.weights[i] for i in left), sum(other.weights[j] for j in right)
    if run_together := _run_together(one, left, other, right):
        agreed += run_together * max(left_weight, right_weight)
        weight += max(left_weight, right_weight)
        agreeing += max(_strong(one, left), _strong(other, right))
        left_weight = right_weight = 0.0

    conflict = min(left_weight, right_weight)
    extra = min(max(left_weight, right_weight) - conflict, EXTRA_WEIGHT_MAX)
    score = agreed / (weight + CONFLICT_COST * conflict + EXTRA_COST * extra)
    if agreeing <= 1 and not initials and max(left_weight, right_weight) >= GENERIC:
        score = min(score, THIN_SCORE_MAX)
    return Likeness(score * (1.0 if _in_order(one, pairs) else OUT_OF_ORDER), agreeing)


@lru_cache(maxsize=65_536)
def token_similarity(one: str, other: str) -> float:
    """How alike two tokens are, 0 to 1; 0 when more differs than a slip or a romanisation explains."""
    if one == other:
        return 1.0
    shorter = min(len(one), len(other))
    if shorter == 1:
        return INITIAL_SIMILARITY if one[0] == other[0] and one.isalpha() and other.isalpha() else 0.0
    if not (one.isalpha() and other.isalpha()):
        return 0.0
    if not (one.isascii() and other.isascii()):
        return _within(one, other, shorter // 6)
    plain = _within(one, other, _edits_allowed(shorter))
    skeleton_one, skeleton_other = skeleton(one), skeleton(other)
    shorter = min(len(skeleton_one), len(skeleton_other))
    heard = _within(skeleton_one, skeleton_other, _edits_allowed(shorter)) - SKELETON_DISCOUNT
    return max(plain, heard, 0.0)


@lru_cache(maxsize=65_536)
def skeleton(token: str) -> str:
    """The token with spellings folded that ear and romanisation confuse: o and u, e and i, kh and h."""
    for written, folded in _FOLDS:
        token = token.replace(written, folded)
    return _REPEATED.sub(r"\1", token.translate(_FOLD_LETTERS))


def _edits_allowed(letters: int) -> int:
    # One edit turns a name of three letters into dozens of others ("Kim", "Kam", "Jim"): none is allowed.
    return 0 if letters <= 3 else 1 if letters <= 7 else 2 if letters <= 11 else 3


def _within(one: str, other: str, edits: int) -> float:
    distance = OSA.distance(one, other, score_cutoff=edits)
    return 1 - distance / max(len(one), len(other)) if distance <= edits else 0.0


def _pair(one: Name, other: Name) -> list[tuple[float, int, int]]:
    """Each token with its best partner that is still free, as (similarity, its position, the other's)."""
    possible = [
        (similarity, i, j)
        for i, token in enumerate(one.tokens)
        for j, candidate in enumerate(other.tokens)
        if (similarity := token_similarity(token, candidate))
    ]
    # Positions break ties in a way that does not depend on which name comes first.
    possible.sort(key=lambda pair: (-pair[0], pair[1] + pair[2], abs(pair[1] - pair[2])))
    pairs: list[tuple[float, int, int]] = []
    taken_one: set[int] = set()
    taken_other: set[int] = set()
    for similarity, i, j in possible:
        if i not in taken_one and j not in taken_other:
            taken_one.add(i)
            taken_other.add(j)
            pairs.append((similarity, i, j))
    return pairs


def _run_together(one: Name, left: list[int], other: Name, right: list[int]) -> float:
    """The similarity of what stayed unpaired, gaps ignored: "PricewaterhouseCoopers", "Alqaeda"."""
    if not left or not right or len(left) + len(right) == 2:
        return 0.0
    return token_similarity("".join(one.tokens[i] for i in left), "".join(other.tokens[j] for j in right))


def _in_order(one: Name, pairs: list[tuple[float, int, int]]) -> bool:
    """Whether the distinctive tokens come in the same order, or rotated as "Last First Middle" is."""
    order = [j for _, i, j in sorted(pairs, key=lambda pair: pair[1]) if one.weights[i] == STRONG]
    return sum(after < before for before, after in zip(order, order[1:] + order[:1], strict=True)) <= 1


def _strong(name: Name, positions: Iterable[int]) -> int:
    return sum(name.weights[position] == STRONG for position in positions)
