"""How names are made comparable and compared."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.compliance.likeness import THIN_SCORE_MAX, score
from services.compliance.names import NAME_TOKENS_MAX, normalise

REVIEW, BLOCK = 80, 95


@pytest.mark.parametrize(
    ("written", "other"),
    [
        ("ZARVONI, Teodric Maelen", "Teodric Maelen Zarvoni"),
        ("Ostravelle G.m.b.H.", "OSTRAVELLE Gesellschaft mit beschränkter Haftung"),
        ("Nimbarra Co., Ltd.", "Nimbarra Limited"),
        ("ПАО Термавольтех", "TERMAVOLTEKH LLC"),
        ("Zarvoñi, Teódric", "Teodric ZARVONI"),
        ("Łukasz Øyvander", "Lukasz Oyvander"),
        ("Tariqan Abdulmuzhafeer", "Tariqan Abdul Muzhafeer"),
        ("Ma'bruk Taz'imuri", "Mabruk Tazimuri"),
        ("Zarv\u200boni Teodric", "Zarvoni Teodric"),
        ("TermavolTekh Freight", "Termavoltekh Freight"),
        ("Calderim & Sons", "Calderim and Sons"),
    ],
)
def test_spellings_of_one_name_agree_entirely(written: str, other: str) -> None:
    assert score(written, other) == 100


@pytest.mark.parametrize(
    ("written", "other"),
    [
        ("Teodric Zarvony", "Teodrik Zarvoni"),
        ("Teodric Zarvoni", "Teodric Maelen Zarvoni"),
        ("T. Zarvoni", "Teodric Zarvoni"),
        ("TeodricZarvoni", "Teodric Zarvoni"),
        ("Mohamed Tazimuri", "Muhammad Tazimouri"),
        ("Te0dric Zarvon1s", "Teodric Zarvonis"),
        ("Ostravelle Maritime", "Ostravelle Maritime Trading Group Ltd"),
        ("Mr. Teodric Zarvoni", "Teodric Zarvoni"),
    ],
)
def test_variants_of_one_name_reach_review(written: str, other: str) -> None:
    assert score(written, other) >= REVIEW


@pytest.mark.parametrize(
    ("written", "other"),
    [
        ("Ernestine Zarvoni", "Teodric Zarvoni"),
        ("Kim Song Dar", "Kim Song Vel"),
        ("Ostravelle Shipping Ltd", "Brandulak Shipping Ltd"),
        ("Zarvoni", "Teodric Maelen Zarvoni"),
        ("General Trading Company", "Ostravelle General Trading Company"),
        ("Calderim Fund VIII", "Calderim Fund IX"),
        ("LXC Aviation", "LAU Aviation"),
        ("", "Teodric Zarvoni"),
    ],
)
def test_different_names_stay_below_review(written: str, other: str) -> None:
    assert score(written, other) < REVIEW


def test_the_same_words_in_another_order_are_for_a_person_to_judge() -> None:
    swapped = score("Harouf bin Seddak Tazimuri", "Seddak bin Harouf Tazimuri")

    assert REVIEW <= swapped < BLOCK


def test_last_name_first_is_not_another_order() -> None:
    assert score("Tazimuri Harouf Seddak", "Harouf Seddak Tazimuri") == 100


def test_one_agreeing_word_never_earns_more_than_the_thin_maximum() -> None:
    assert score("Illyan", "Illyan Korvanthe") <= THIN_SCORE_MAX * 100


@pytest.mark.parametrize("name", ["", "  ", "GmbH", "محمد", "王伟", "Teodric 王"])
def test_a_name_that_cannot_be_compared_says_so(name: str) -> None:
    assert not normalise(name).readable


def test_a_company_may_be_called_like_a_legal_form_within_its_name() -> None:
    assert "ag" in normalise("AG Brandulak GmbH").tokens


def test_an_endless_name_is_cut() -> None:
    assert len(normalise("ab " * 10_000).tokens) <= NAME_TOKENS_MAX


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_score_is_in_range_and_does_not_depend_on_which_name_comes_first(one: str, other: str) -> None:
    assert 0 <= score(one, other) <= 100
    assert score(one, other) == score(other, one)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_name_with_something_to_compare_agrees_with_itself(name: str) -> None:
    assert score(name, name) == (100 if normalise(name).tokens else 0)
