"""Reads a denied-party list as OFAC publishes its SDN list; without it, there is nobody to screen against.

A folder holds `sdn.csv` (entries), `alt.csv` (aliases) and `add.csv` (addresses), and where they exist
`sdn_comments.csv` (the rest of remarks that were too long) and `published.txt` (the ISO date of the list).
No file has a header line, empty is written `-0- `, programs are separated by `] [`, weak aliases stand in the
remarks in single quotes, and a line with only the control character 0x1A may end a file. A record never spans
two lines, so that one broken line cannot swallow its neighbours.

A list is used as a whole or not at all: a line that cannot be read could be the party that has to be found.
"""

import csv
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from iso3166 import countries

from services.compliance.adapters.refusal import ListRefusedError, Problem
from services.compliance.denied import Alias, DeniedParties, Kind, ListedParty

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
FILE_LINES_MAX: Final = 500_000
LINE_CHARACTERS_MAX: Final = 20_000
NAME_CHARACTERS_MAX: Final = 1_000
PROBLEMS_MAX: Final = 1_000

ENTRIES_FILE: Final = "sdn.csv"
ALIASES_FILE: Final = "alt.csv"
ADDRESSES_FILE: Final = "add.csv"
REMARKS_FILE: Final = "sdn_comments.csv"
PUBLISHED_FILE: Final = "published.txt"
LIST_FILES: Final = (ENTRIES_FILE, ALIASES_FILE, ADDRESSES_FILE, REMARKS_FILE, PUBLISHED_FILE)

_REQUIRED_FILES: Final = frozenset((ENTRIES_FILE, ALIASES_FILE, ADDRESSES_FILE))
_COLUMNS: Final = {ENTRIES_FILE: 12, ALIASES_FILE: 5, ADDRESSES_FILE: 6, REMARKS_FILE: 2}
_EMPTY: Final = "-0-"
_END_OF_FILE: Final = "\x1a"
_ALIAS_TYPES: Final = frozenset(("aka", "fka", "nka"))
_WEAK_ALIAS: Final = re.compile(r"a\.k\.a\. '(.+?)'(?=[;.]|$)")
_DIGEST_CHARACTERS: Final = 12

# Country names as OFAC writes them, where ISO 3166 has another name. An address with neither (a region,
# "undetermined") gives no country. The country is evidence only, and its absence lowers no score.
_OFAC_COUNTRIES: Final = {
    "bahamas, the": "BS",
    "bolivia": "BO",
    "burma": "MM",
    "congo, democratic republic of the": "CD",
    "congo, republic of the": "CG",
    "cote d ivoire": "CI",
    "czech republic": "CZ",
    "iran": "IR",
    "korea, north": "KP",
    "korea, south": "KR",
    "laos": "LA",
    "man, isle of": "IM",
    "moldova": "MD",
    "palestinian": "PS",
    "russia": "RU",
    "syria": "SY",
    "taiwan": "TW",
    "tanzania": "TZ",
    "the gambia": "GM",
    "turkey": "TR",
    "united kingdom": "GB",
    "united states": "US",
    "venezuela": "VE",
    "vietnam": "VN",
    "west bank": "PS",
}
_COUNTRY_CODES: Final[Mapping[str, str]] = (
    {country.name.casefold(): country.alpha2 for country in countries}
    | {country.apolitical_name.casefold(): country.alpha2 for country in countries}
    | _OFAC_COUNTRIES
)


def read_denied_parties(folder: Path) -> DeniedParties:
    """The list in a folder. Its version is the date of the list and a digest of its content.

    The date is that of `published.txt`, otherwise the day on which the newest file was written. Raises
    ListRefusedError with file and line of every problem.
    """
    reading = _Reading(folder)
    parties = reading.parties()
    published = reading.published()
    if not parties and not reading.problems:
        reading.report(ENTRIES_FILE, None, "holds no entries")
    if reading.problems:
        raise ListRefusedError(str(folder), tuple(reading.problems))
    return DeniedParties(parties, version=f"{published:%Y-%m-%d}.{reading.digest()}")


class _Reading:
    """One pass over the files of a folder: what was read, and what was wrong with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digest = hashlib.sha256()
        self.problems: list[Problem] = []

    def report(self, file: str, line: int | None, what: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(file, line, what))

    def digest(self) -> str:
        return self._digest.hexdigest()[:_DIGEST_CHARACTERS]

    def parties(self) -> list[ListedParty]:
        entries: dict[str, list[str]] = {}
        for line, fields in self._records(ENTRIES_FILE):
            if self._is_entry(line, fields, entries):
                entries[fields[0]] = fields
        aliases, countries_of, more_remarks = (
            self._aliases(entries),
            self._countries(entries),
            self._remarks(),
        )
        return [
            ListedParty(
                uid=uid,
                name=fields[1],
                kind=Kind(fields[2]) if fields[2] else Kind.ENTITY,
                programs=tuple(program.strip(" []") for program in fields[3].split("] [") if program),
                aliases=(*aliases[uid], *_weak_aliases(fields[11] + more_remarks[uid])),
                countries=frozenset(countries_of[uid]),
            )
            for uid, fields in entries.items()
        ]

    def published(self) -> date:
        try:
            return date.fromisoformat(self._content(PUBLISHED_FILE).strip())
        except FileNotFoundError:
            newest = max((path.stat().st_mtime for path in self._folder.glob("*.csv")), default=0.0)
            return datetime.fromtimestamp(newest, UTC).date()
        except ValueError:
            self.report(PUBLISHED_FILE, 1, "is not a date like 2026-01-31")
            return date.min

    def _is_entry(self, line: int, fields: list[str], entries: Mapping[str, list[str]]) -> bool:
        uid, name, kind = fields[:3]
        problems = [
            (not (uid.isascii() and uid.isdigit()), "the entry number is not a number"),
            (uid in entries, "the entry number was used before"),
            (not 0 < len(name) <= NAME_CHARACTERS_MAX, "the name is missing or too long"),
            (bool(kind) and kind not in list(Kind), "the type is not individual, entity, vessel or aircraft"),
        ]
        for is_so, what in problems:
            if is_so:
                self.report(ENTRIES_FILE, line, what)
        return not any(is_so for is_so, _ in problems)

    def _aliases(self, entries: Mapping[str, object]) -> Mapping[str, list[Alias]]:
        aliases: dict[str, list[Alias]] = defaultdict(list)
        for line, fields in self._records_of(ALIASES_FILE, entries):
            if fields[2] not in _ALIAS_TYPES:
                self.report(ALIASES_FILE, line, "the type is not aka, fka or nka")
            elif not 0 < len(fields[3]) <= NAME_CHARACTERS_MAX:
                self.report(ALIASES_FILE, line, "the name is missing or too long")
            else:
                aliases[fields[0]].append(Alias(fields[3]))
        return aliases

    def _countries(self, entries: Mapping[str, object]) -> Mapping[str, set[str]]:
        codes: dict[str, set[str]] = defaultdict(set)
        for _, fields in self._records_of(ADDRESSES_FILE, entries):
            if (code := _COUNTRY_CODES.get(fields[4].casefold())) is not None:
                codes[fields[0]].add(code)
        return codes

    def _remarks(self) -> Mapping[str, str]:
        remarks: dict[str, str] = defaultdict(str)
        # The rest of a remark without an entry hides no listed party, so this file alone may be of another day.
        for _, fields in self._records(REMARKS_FILE):
            remarks[fields[0]] += fields[1]
        return remarks

    def _records_of(self, file: str, entries: Mapping[str, object]) -> Iterator[tuple[int, list[str]]]:
        """The records that belong to an entry. One without an entry shows that the files do not fit together."""
        for line, fields in self._records(file):
            if fields[0] in entries:
                yield line, fields
            else:
                self.report(file, line, f"belongs to no entry of {ENTRIES_FILE}")

    def _records(self, file: str) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of every good line, `-0-` made empty; bad ones are reported and left out."""
        try:
            lines = self._content(file).split("\n")
        except FileNotFoundError:
            if file in _REQUIRED_FILES:
                self.report(file, None, "is missing")
            return
        except ValueError as error:
            self.report(file, None, str(error))
            return
        if len(lines) > FILE_LINES_MAX:
            self.report(file, None, f"has more than {FILE_LINES_MAX} lines")
            return
        for number, line in enumerate(lines, start=1):
            if not line.strip(_END_OF_FILE + " \r"):
                continue
            try:
                yield number, _fields(line, columns=_COLUMNS[file])
            except ValueError as error:
                self.report(file, number, str(error))

    def _content(self, file: str) -> str:
        """The text of a file, as UTF-8, otherwise as Latin-1. Raises FileNotFoundError; ValueError if too large."""
        with (self._folder / file).open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ValueError(f"is larger than {FILE_BYTES_MAX} bytes")
        self._digest.update(f"{file} {len(content)}\n".encode())
        self._digest.update(content)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return content.decode("latin-1")


def _fields(line: str, *, columns: int) -> list[str]:
    if len(line) > LINE_CHARACTERS_MAX:
        raise ValueError(f"the line is longer than {LINE_CHARACTERS_MAX} characters")
    try:
        fields = next(csv.reader([line.removesuffix("\r")], strict=True))
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from error
    if len(fields) != columns:
        raise ValueError(f"{len(fields)} fields instead of {columns}")
    return ["" if field.strip() == _EMPTY else field.strip() for field in fields]


def _weak_aliases(remarks: str) -> Iterator[Alias]:
    return (Alias(name, weak=True) for name in _WEAK_ALIAS.findall(remarks))
