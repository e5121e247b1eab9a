"""How far two countries are apart, in three classes. Without it the nearest warehouse could not be chosen.

The table is our own: continents, with the countries between two of them where their freight mostly goes.
"""

from typing import Final

SAME_COUNTRY: Final = 0
SAME_REGION: Final = 1
ELSEWHERE: Final = 2

_COUNTRIES: Final = {
    "africa": (
        "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW IO KE KM LR LS LY MA MG ML MR MU MW MZ NA "
        "NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TF TG TN TZ UG YT ZA ZM ZW"
    ),
    "america": (
        "AG AI AR AW BB BL BM BO BQ BR BS BZ CA CL CO CR CU CW DM DO EC FK GD GF GL GP GS GT GY HN HT JM KN KY LC MF MQ MS "
        "MX NI PA PE PM PR PY SR SV SX TC TT US UY VC VE VG VI"
    ),
    "antarctica": "AQ BV HM",
    "asia": (
        "AE AF AM AZ BD BH BN BT CN GE HK ID IL IN IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM PH PK PS QA "
        "SA SG SY TH TJ TL TM TW UZ VN YE"
    ),
    "europe": (
        "AD AL AT AX BA BE BG BY CH CY CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK MT "
        "NL NO PL PT RO RS RU SE SI SJ SK SM TR UA VA XK"
    ),
    "oceania": "AS AU CC CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS",
}
REGION: Final = {country: region for region, countries in _COUNTRIES.items() for country in countries.split()}


def distance_class(origin: str, destination: str) -> int:
    """0 in the same country, 1 in the same region, 2 elsewhere. A country that the table lacks is elsewhere for all others."""
    if origin == destination:
        return SAME_COUNTRY
    region = REGION.get(origin)
    return SAME_REGION if region is not None and region == REGION.get(destination) else ELSEWHERE
