"""The comparable form of a written name; without it, spelling would decide who is a denied party.

Letters are folded (case, accents, Cyrillic and Greek), punctuation goes, legal forms go, "LAST, First" is
turned round, and what remains are tokens with weights: a family name weighs more than "Trading", "Trading"
more than "al".
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NAME_CHARACTERS_MAX: Final = 300
NAME_TOKENS_MAX: Final = 24

STRONG: Final = 1.0
GENERIC: Final = 0.5
INITIAL: Final = 0.3
PARTICLE: Final = 0.15


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTICLES: Final = {
    word: group.split()[0]
    for group in (
        "al el ul as ash ad ar at an",
        "bin ben ibn bint ould oglu ogly kyzy",
        "abu abou",
        "abd abdul abdel abdal abdur",
        "de del della di da do dos das du des",
        "la le las los les lo",
        "von van vom zu zum ter ten der den",
        "and et y e und",
        "of the for",
    )
    for word in group.split()
}
"""Words that are left out, joined or spelled freely, with the one that stands for their group."""

TITLES: Final = _words(
    "mr mrs ms miss dr prof professor sir eng ing hajji haji hajj mullah maulvi mawlawi shaikh sheikh sheik "
    "shaykh sayyid seyed syed general gen colonel col president minister jr sr mv mt ss"
)
"""Titles and prefixes that are written or left out at will, before a person's name or a ship's."""

GENERIC_WORDS: Final = _words(
    "company companies corporation limited group holding holdings trading trade international intl "
    "industries industry industrial enterprise enterprises services service import export commercial bank "
    "fund investment investments management global national partners solutions systems "
    "capital trust association business foundation organization organisation agency bureau establishment est "
    "commerce consulting logistics shipping transport"
)

LEGAL_FORMS: Final = _words(
    "ag ab as asa aps bv bvba co company corp corporation cv cva cjsc doo dmcc eeig eood eurl fzc fze fzco "
    "fzllc gie gmbh inc incorporated incorporation kft kg kgaa kk lda llc llp lp ltd ltda limited "
    "limitada mbh nv ojsc ooo oao ou oy oyj zao pao jsc plc pjsc pte pty pvt rl sa sal sarl sas sca scs sdn "
    "bhd se sia sl slu snc spa spzoo sprl srl sro tbk uab ug vof zrt nyrt"
)
LEGAL_FORMS_IN_FRONT: Final = _words("ooo oao zao pao jsc ojsc cjsc pjsc pt sia llc srl ltd tov uab")

_LEGAL_PHRASES: Final = {
    "limited liability company": "llc",
    "limited liability partnership": "llp",
    "limited partnership": "lp",
    "public limited company": "plc",
    "private limited": "pvt ltd",
    "open joint stock company": "ojsc",
    "closed joint stock company": "cjsc",
    "public joint stock company": "pjsc",
    "joint stock company": "jsc",
    "aktiengesellschaft": "ag",
    "gesellschaft mit beschrankter haftung": "gmbh",
    "besloten vennootschap": "bv",
    "naamloze vennootschap": "nv",
    "societe anonyme": "sa",
    "societe a responsabilite limitee": "sarl",
    "sociedad anonima": "sa",
    "sociedad de responsabilidad limitada": "srl",
    "societatea cu raspundere limitata": "srl",
    "sociedade limitada": "ltda",
    "societa per azioni": "spa",
    "spolka z ograniczona odpowiedzialnoscia": "spzoo",
    "sp z o o": "spzoo",
    "sp z oo": "spzoo",
    "s de rl de cv": "srl",
    "sa de cv": "sa",
    "free zone company": "fzc",
    "free zone establishment": "fze",
    "anonim sirketi": "as",
    "obshchestvo s ogranichennoi otvetstvennostiu": "ooo",
    "obshchestvo s ogranichennoi otvetstvennostyu": "ooo",
}
_LEGAL_PHRASE: Final = re.compile(r"\b(?:" + "|".join(sorted(_LEGAL_PHRASES, key=len, reverse=True)) + r")\b")

# Letters that Unicode does not decompose, and the two alphabets whose romanisation is nearly one to one.
# Arabic, Hebrew and the East Asian scripts leave out vowels or need a dictionary: such names are marked
# unreadable instead of being guessed at, and go to a person.
_ROMANISATIONS: Final = (
    ("ßøđðþłæœıəħŋ", "ss o d d th l ae oe i a h n"),
    ("абвгдежзиклмнопрстуф", "a b v g d e zh z i k l m n o p r s t u f"),
    ("хцчшщыэюя", "kh ts ch sh shch y e yu ya"),
    ("ієґђјљњћџѕ", "i ye g dj j lj nj c dz dz"),
    ("αβγδεζηθικλμνξοπρστυφχψως", "a v g d e z i th i k l m n x o p r s t y f ch ps o s"),
)
_DROPPED: Final = "'\"`\u00b4\u2018\u2019\u02bb\u02bc\u02be\u02bf\u044c\u044a\u00ad\u200b\u200c\u200d\u2060\ufeff"
"""Quotes and apostrophes, the two Cyrillic signs without a sound, and characters that nobody sees."""

_LETTERS: Final = str.maketrans(
    {letter: romanised for letters, words in _ROMANISATIONS for letter, romanised in zip(letters, words.split(), strict=True)}
    | dict.fromkeys(_DROPPED, "")
    | {"&": " and "}
)
_COMBINING: Final = re.compile("[\u0300-\u036f\u064b-\u065f]")
_DOTTED: Final = re.compile(r"\b(?:[^\W\d_]\.){2,}(?:[^\W\d_]\b)?")
_BREAK: Final = re.compile(r"[\W_]+")
_DIGIT_INSIDE: Final = re.compile(r"(?<=[a-z])[01345](?=[a-z])")
_DIGIT_AS_LETTER: Final = str.maketrans("01345", "oieas")
_JOINED_ABD: Final = re.compile(r"^(?:abdul|abdel|abdal|abdur)(?=[a-z]{4})")


@dataclass(frozen=True, slots=True)
class Name:
    """A name ready for comparing: tokens in reading order with their weights, legal forms left out.

    `readable` is False when letters remain that have no romanisation here, or when nothing remains at all:
    such a name cannot be told from a listed one, and a low score then says nothing.
    """

    tokens: tuple[str, ...]
    weights: tuple[float, ...]
    readable: bool

    @property
    def strong(self) -> tuple[str, ...]:
        """The tokens that tell this name from others: no particles, titles, generic words or initials."""
        tokens = zip(self.tokens, self.weights, strict=True)
        return tuple(token for token, weight in tokens if weight == STRONG)

    @property
    def joined(self) -> str:
        return "".join(self.tokens)


@lru_cache(maxsize=16_384)
def normalise(text: str) -> Name:
    """The comparable form of a written name; NAME_CHARACTERS_MAX and NAME_TOKENS_MAX cut it."""
    folded = _fold_letters(text[:NAME_CHARACTERS_MAX])
    parts = [_tokens(part) for part in folded.split(",")]
    if len(parts) == 2 and _without_legal_form(parts[1]) and _without_legal_form(parts[0]):
        parts.reverse()
    tokens = _without_legal_form([token for part in parts for token in part])
    tokens = [piece for token in tokens for piece in _split_abd(token)]
    tokens = [PARTICLES.get(token, token) for token in tokens][:NAME_TOKENS_MAX]
    return Name(
        tokens=tuple(tokens),
        weights=tuple(map(_weight, tokens)),
        readable=bool(tokens) and all(token.isascii() for token in tokens),
    )


def _weight(token: str) -> float:
    if token in PARTICLES or token in TITLES:
        return PARTICLE
    if token in GENERIC_WORDS:
        return GENERIC
    return INITIAL if len(token) == 1 and token.isascii() and token.isalpha() else STRONG


def _fold_letters(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return _COMBINING.sub("", decomposed).translate(_LETTERS)


def _tokens(part: str) -> list[str]:
    part = _DOTTED.sub(lambda match: match.group().replace(".", ""), part)
    part = _BREAK.sub(" ", part).strip()
    part = _LEGAL_PHRASE.sub(lambda match: _LEGAL_PHRASES[match.group()], part)
    return [_DIGIT_INSIDE.sub(_as_letter, token) for token in part.split()]


def _as_letter(digit: re.Match[str]) -> str:
    return digit.group().translate(_DIGIT_AS_LETTER)


def _without_legal_form(tokens: list[str]) -> list[str]:
    first, last = 0, len(tokens)
    while last > first and tokens[last - 1] in LEGAL_FORMS:
        last -= 1
    while first < last and tokens[first] in LEGAL_FORMS_IN_FRONT:
        first += 1
    return tokens[first:last]


def _split_abd(token: str) -> list[str]:
    found = _JOINED_ABD.match(token)
    return [found.group(), token[found.end() :]] if found else [token]
