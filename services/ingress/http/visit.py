"""What is known of one request while it is answered."""

from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from services.ingress.http.quota import Quota
from services.ingress.keys import Account

_SCOPE_KEY: Final = "tutti.visit"


@dataclass(slots=True)
class Visit:
    """`request_id` is this occurrence; `correlation_id` becomes the order's as soon as the answer is about one."""

    request_id: str
    correlation_id: str
    peer: str
    quota: Quota | None = None
    account: Account | None = None


def begin(scope: Scope, request_id: str) -> Visit:
    client = scope.get("client")
    visit = Visit(request_id, request_id, client[0] if client else "unknown")
    scope[_SCOPE_KEY] = visit
    return visit


def visit_of(scope: Scope) -> Visit:
    visit = scope[_SCOPE_KEY]
    assert isinstance(visit, Visit)
    return visit


def account_of(scope: Scope) -> Account:
    """The account of a request that has been admitted; routes under /v1 see no other."""
    account = visit_of(scope).account
    assert account is not None
    return account
