import iso3166
import pytest

from services.inventory.distance import ELSEWHERE, REGION, SAME_COUNTRY, SAME_REGION, distance_class


@pytest.mark.parametrize(
    ("origin", "destination", "expected"),
    [
        ("DE", "DE", SAME_COUNTRY),
        ("DE", "FR", SAME_REGION),
        ("US", "BR", SAME_REGION),
        ("DE", "US", ELSEWHERE),
        ("ZZ", "ZZ", SAME_COUNTRY),
        ("ZZ", "DE", ELSEWHERE),
        ("ZZ", "YY", ELSEWHERE),
    ],
)
def test_the_distance_class_is_that_of_country_region_or_neither(origin: str, destination: str, expected: int):
    assert distance_class(origin, destination) == expected


def test_every_country_that_a_message_can_name_has_one_region():
    assert set(REGION) == set(iso3166.countries_by_alpha2)
