"""What a credit line promises: holds and used amounts together never grow beyond its limit."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

from contracts.values import Money


class LineKey(NamedTuple):
    """A buyer has one line per currency; limits of different currencies are never added up."""

    buyer_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Reserved:
    """The amount fits; `line` is the line with the new hold in it."""

    line: "CreditLine"


@dataclass(frozen=True, slots=True)
class Declined:
    """The amount does not fit: `shortfall` is missing. `code` says why to programs, `detail` to people."""

    shortfall: Money
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class CreditLine:
    """One buyer's line in one currency, in minor units of it.

    `held_minor` is set aside for orders under way, `used_minor` belongs to completed orders; their sum is the exposure.
    `limit_sequence` is the number of the fact that set the limit, None where no limit was ever stated: such a line
    allows nothing. The limit may be lowered below the exposure; then nothing is granted until it fits again.
    """

    currency: str
    limit_minor: int = 0
    limit_sequence: int | None = None
    held_minor: int = 0
    used_minor: int = 0

    @property
    def exposure_minor(self) -> int:
        return self.held_minor + self.used_minor

    def reserve(self, amount: Money) -> Reserved | Declined:
        """Holds the amount where it fits. Raises ValueError for a negative amount, which would enlarge the line."""
        amount_minor = self._minor(amount)
        missing_minor = self.exposure_minor + amount_minor - self.limit_minor
        if self.limit_sequence is not None and missing_minor <= 0:
            return Reserved(replace(self, held_minor=self.held_minor + amount_minor))
        return self._declined(amount, Money(amount_minor=max(missing_minor, 0), currency=self.currency))

    def release(self, amount: Money) -> "CreditLine":
        """Gives a held amount back. Raises ValueError when less than that is held."""
        amount_minor = self._minor(amount)
        if amount_minor > self.held_minor:
            raise ValueError(f"{amount} cannot be released: the line holds {self.held_minor} minor units in all")
        return replace(self, held_minor=self.held_minor - amount_minor)

    def with_limit(self, limit: Money, sequence: int) -> "CreditLine":
        """The line under a new limit, or this very line when a later limit is known already."""
        limit_minor = self._minor(limit)
        if self.limit_sequence is not None and sequence <= self.limit_sequence:
            return self
        return replace(self, limit_minor=limit_minor, limit_sequence=sequence)

    def _declined(self, amount: Money, shortfall: Money) -> Declined:
        # The reason travels to the partner, who has no business knowing the buyer's limit: only the gap is told.
        if self.limit_sequence is None:
            return Declined(shortfall, "no-credit-line", f"the buyer has no credit line in {self.currency}")
        return Declined(shortfall, "credit-declined", f"of {amount} needed, the buyer's credit lacks {shortfall}")

    def _minor(self, amount: Money) -> int:
        if amount.currency != self.currency:
            raise ValueError(f"{amount} does not belong to a line in {self.currency}")
        if amount.amount_minor < 0:
            raise ValueError(f"{amount} is negative; neither a limit nor a hold can be")
        return amount.amount_minor


@dataclass(frozen=True, slots=True)
class HoldPlaced:
    """An operation holds an amount for an order."""

    operation_id: str
    order_id: str
    line: LineKey
    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class HoldReleased:
    """What the operation held is free again."""

    operation_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class HoldCaptured:
    """The order is complete. What it still holds on the line, if anything, is used from now on."""

    order_id: str
    line: LineKey
    at: datetime


@dataclass(frozen=True, slots=True)
class LimitStated:
    """The line's limit became this, for this reason."""

    line: LineKey
    limit_minor: int
    sequence: int
    reason: str
    at: datetime


Fact = HoldPlaced | HoldReleased | HoldCaptured | LimitStated
