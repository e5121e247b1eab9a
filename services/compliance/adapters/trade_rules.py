"""Reads embargoes and restricted goods from YAML; without it, only names would be screened.

A folder holds `embargoes.yaml` and `restricted-goods.yaml`, each with a `version` of its own.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeVar

import yaml
from iso3166 import countries_by_alpha2
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.compliance.adapters.refusal import ListRefusedError, Problem
from services.compliance.domain import RestrictedGoods, TradeRules

FILE_BYTES_MAX: Final = 1024 * 1024
RULES_MAX: Final = 1_000
SELECTORS_MAX: Final = 1_000

EMBARGOES_FILE: Final = "embargoes.yaml"
RESTRICTED_GOODS_FILE: Final = "restricted-goods.yaml"
_DIGEST_CHARACTERS: Final = 8
RULE_FILES: Final = (EMBARGOES_FILE, RESTRICTED_GOODS_FILE)


def _known_country(code: str) -> str:
    if code not in countries_by_alpha2:
        raise ValueError("not a country code of ISO 3166")
    return code


_Text = Annotated[str, StringConstraints(min_length=1, max_length=300, strip_whitespace=True)]
# Versions are recorded with every answer, so they are short.
_Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.\-]{1,16}$")]
_Country = Annotated[str, AfterValidator(_known_country)]
_Selectors = Annotated[tuple[_Text, ...], Field(max_length=SELECTORS_MAX)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Embargo(_Strict):
    country: _Country
    reason: _Text


class _Embargoes(_Strict):
    version: _Version
    embargoes: Annotated[tuple[_Embargo, ...], Field(max_length=RULES_MAX)]


class _Restriction(_Strict):
    rule: _Text
    reason: _Text
    countries: Annotated[tuple[_Country, ...], Field(min_length=1, max_length=SELECTORS_MAX)]
    goods_classes: _Selectors = ()
    hs_prefixes: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[0-9]{2,10}$")], ...],
        Field(max_length=SELECTORS_MAX),
    ] = ()
    sku_prefixes: _Selectors = ()


class _RestrictedGoods(_Strict):
    version: _Version
    rules: Annotated[tuple[_Restriction, ...], Field(max_length=RULES_MAX)]


class _Digest(Protocol):
    def update(self, content: bytes, /) -> None: ...


_Content = TypeVar("_Content", bound=_Strict)


def read_trade_rules(folder: Path) -> TradeRules:
    """The rules in a folder; their version ends in a digest, so that an edit without a new version shows.

    Raises ListRefusedError with every problem found in the first broken file.
    """
    digest = hashlib.sha256()
    embargoes = _read(folder, EMBARGOES_FILE, _Embargoes, digest)
    restricted = _read(folder, RESTRICTED_GOODS_FILE, _RestrictedGoods, digest)
    return TradeRules(
        embargoed={embargo.country: embargo.reason for embargo in embargoes.embargoes},
        restricted=tuple(
            RestrictedGoods(
                rule=rule.rule,
                reason=rule.reason,
                countries=frozenset(rule.countries),
                goods_classes=frozenset(rule.goods_classes),
                hs_prefixes=rule.hs_prefixes,
                sku_prefixes=rule.sku_prefixes,
            )
            for rule in restricted.rules
        ),
        version=f"{embargoes.version}+{restricted.version}.{digest.hexdigest()[:_DIGEST_CHARACTERS]}",
    )


def _read(folder: Path, file: str, shape: type[_Content], digest: _Digest) -> _Content:
    try:
        with (folder / file).open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ListRefusedError(str(folder), (Problem(file, None, "is missing"),)) from error
    if len(content) > FILE_BYTES_MAX:
        raise ListRefusedError(str(folder), (Problem(file, None, f"is larger than {FILE_BYTES_MAX} bytes"),))
    digest.update(content)
    try:
        return shape.model_validate(yaml.safe_load(content))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = Problem(file, line, f"not YAML: {error.problem}")
        raise ListRefusedError(str(folder), (problem,)) from error
    except yaml.YAMLError as error:
        raise ListRefusedError(str(folder), (Problem(file, None, "not YAML"),)) from error
    except ValidationError as error:
        problems = tuple(
            Problem(file, None, f"{'.'.join(map(str, wrong['loc'])) or 'content'}: {wrong['msg']}") for wrong in error.errors()
        )
        raise ListRefusedError(str(folder), problems) from error
