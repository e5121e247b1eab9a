"""What is said to compliance and what compliance says, version 1."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from contracts.message import Command, Event
from contracts.values import LINES_MAX, CountryCode, OrderId, OrderLine, PersonalText, Reason, Text, Value

ListVersion = Annotated[str, StringConstraints(min_length=1, max_length=80)]
Programs = Annotated[tuple[Annotated[str, StringConstraints(max_length=40)], ...], Field(max_length=30)]


class Party(Value):
    """Somebody to be screened: the buyer, or the place where goods go. `country` only where it is known."""

    name: PersonalText
    country: CountryCode | None = None


class Match(Value):
    """A listed party that resembles one of ours: how much (0 to 100), and under which programs it is listed."""

    party: PersonalText
    listed: PersonalText
    uid: Text
    programs: Programs
    score: Annotated[int, Field(strict=True, ge=0, le=100)]


class ScreenParties(Command):
    """Compare the parties with the denied-party lists, and destination and goods with the embargo rules. Changes nothing."""

    wire_name: ClassVar[str] = "compliance.screen-parties.v1"

    order_id: OrderId
    parties: Annotated[tuple[Party, ...], Field(min_length=1, max_length=10)]
    items: Annotated[tuple[OrderLine, ...], Field(max_length=LINES_MAX)]


class PartiesCleared(Event):
    """Nothing speaks against the order. `best_match` shows how close the nearest listed party came."""

    wire_name: ClassVar[str] = "compliance.parties-cleared.v1"

    order_id: OrderId
    list_version: ListVersion
    best_match: Match | None = None


class PartiesBlocked(Event):
    """The order must not be delivered, for these reasons."""

    wire_name: ClassVar[str] = "compliance.parties-blocked.v1"

    order_id: OrderId
    list_version: ListVersion
    reasons: tuple[Reason, ...]
    best_match: Match | None = None


class ReviewNeeded(Event):
    """A resemblance, or a name that could not be read, that a person has to judge."""

    wire_name: ClassVar[str] = "compliance.review-needed.v1"

    order_id: OrderId
    list_version: ListVersion
    reasons: tuple[Reason, ...]
    best_match: Match | None = None
    matches: Annotated[tuple[Match, ...], Field(max_length=20)]


MESSAGES = (ScreenParties, PartiesCleared, PartiesBlocked, ReviewNeeded)
