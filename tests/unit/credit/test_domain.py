import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.values import Money
from services.credit.domain import CreditLine, Declined, Reserved

AMOUNTS = st.integers(min_value=0, max_value=10**9)


def eur(minor: int) -> Money:
    return Money(amount_minor=minor, currency="EUR")


def line(limit: int, *, held: int = 0, used: int = 0) -> CreditLine:
    return CreditLine("EUR", limit_minor=limit, limit_sequence=1, held_minor=held, used_minor=used)


def test_holds_what_fits_to_the_last_cent() -> None:
    outcome = line(10_000, held=3_000, used=2_000).reserve(eur(5_000))

    assert outcome == Reserved(line(10_000, held=8_000, used=2_000))


def test_declines_one_cent_too_much_and_says_what_is_missing() -> None:
    outcome = line(10_000, held=3_000, used=2_000).reserve(eur(5_001))

    assert isinstance(outcome, Declined)
    assert outcome.shortfall == eur(1)
    assert outcome.code == "credit-declined"
    assert "50.01 EUR" in outcome.detail
    assert "0.01 EUR" in outcome.detail


def test_tells_the_gap_but_never_the_limit() -> None:
    outcome = line(12_345).reserve(eur(99_999))

    assert isinstance(outcome, Declined)
    assert "123.45" not in outcome.detail


@pytest.mark.parametrize("amount", [0, 1, 500])
def test_a_buyer_without_a_stated_limit_gets_nothing(amount: int) -> None:
    outcome = CreditLine("EUR").reserve(eur(amount))

    assert isinstance(outcome, Declined)
    assert outcome.code == "no-credit-line"
    assert outcome.shortfall == eur(amount)


def test_a_limit_of_zero_is_a_line_and_declines_as_one() -> None:
    outcome = line(0).reserve(eur(1))

    assert isinstance(outcome, Declined)
    assert outcome.code == "credit-declined"


def test_a_limit_below_the_exposure_keeps_the_holds_and_grants_nothing_until_it_fits() -> None:
    lowered = line(10_000, held=8_000).with_limit(eur(5_000), 2)

    assert lowered.held_minor == 8_000
    refused = lowered.reserve(eur(100))
    assert isinstance(refused, Declined)
    assert refused.shortfall == eur(3_100)
    assert isinstance(lowered.release(eur(3_100)).reserve(eur(100)), Reserved)


@pytest.mark.parametrize("sequence", [6, 7])
def test_a_limit_that_is_not_newer_changes_nothing(sequence: int) -> None:
    known = line(10_000).with_limit(eur(20_000), 7)

    assert known.with_limit(eur(1), sequence) is known


def test_the_first_limit_may_have_sequence_zero() -> None:
    assert CreditLine("EUR").with_limit(eur(10), 0) == CreditLine("EUR", limit_minor=10, limit_sequence=0)


def test_releasing_more_than_is_held_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be released"):
        line(10_000, held=100, used=5_000).release(eur(101))


@pytest.mark.parametrize("amount", [eur(-1), Money(amount_minor=1, currency="USD")])
def test_negative_and_foreign_amounts_are_refused_everywhere(amount: Money) -> None:
    held = line(10_000, held=100)

    with pytest.raises(ValueError, match=r"negative|does not belong"):
        held.reserve(amount)
    with pytest.raises(ValueError, match=r"negative|does not belong"):
        held.release(amount)
    with pytest.raises(ValueError, match=r"negative|does not belong"):
        held.with_limit(amount, 9)


@given(limit=AMOUNTS, held=AMOUNTS, used=AMOUNTS, amount=AMOUNTS)
def test_a_grant_never_exceeds_the_limit_and_a_shortfall_is_exactly_what_would_help(
    limit: int, held: int, used: int, amount: int
) -> None:
    before = line(limit, held=held, used=used)

    match before.reserve(eur(amount)):
        case Reserved(line=after):
            assert after.exposure_minor <= limit
            assert after.release(eur(amount)) == before
        case Declined(shortfall=shortfall):
            assert shortfall.amount_minor > 0
            helped = before.with_limit(eur(limit + shortfall.amount_minor), 2)
            assert isinstance(helped.reserve(eur(amount)), Reserved)
            short = before.with_limit(eur(limit + shortfall.amount_minor - 1), 2)
            assert isinstance(short.reserve(eur(amount)), Declined)
