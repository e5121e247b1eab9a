"""Orders as partners write them, with the end that each should come to, and a partner who insists until he has been answered."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx2

from tests.support.history import History

# Names of the company's own small sanctions list, which the service ships with.
BLOCKED: Final = "Termavoltekh"
BLOCKED_TOO: Final = "Illyan Korvanthe"
RESEMBLING: Final = "Teodric Zarvoni"
# Personal data and secrets of these orders are recognised wherever they turn up.
CANARY_NAME: Final = "Kanarienvogel Handel GmbH"
CANARY_STREET: Final = "Zaunkoenigstieg 4711"
# Every country without our own fleet is served by a carrier that is booked over HTTP.
FLEET, OVER_HTTP = "DE", "US"
BUYERS: Final = 50
ITEMS: Final = 500
MORE_THAN_ALL_STOCK: Final = 3500
BUYER_WITHOUT_CREDIT: Final = "C-NOBODY"
IN_FLIGHT_MAX: Final = 100
INSISTING: Final = 0.9
ATTEMPT_SECONDS_MAX: Final = 10.0

Body = dict[str, Any]
_turns = itertools.count()


def line(number: int, sku: str, quantity: str = "1") -> Body:
    return {"line": str(number), "sku": sku, "quantity": quantity, "unit": "C62"}


def order(**changes: Any) -> Body:
    """An order of one line that completes, with a number of its own, of one buyer after the other. `country` and `name` (the buyer's) are short forms."""
    country, name = changes.pop("country", FLEET), changes.pop("name", CANARY_NAME)
    body = {
        "order_number": f"PO-{uuid4().hex[:16]}",
        "revision": 0,
        "buyer": {"id": changes.pop("buyer_id", f"C-{next(_turns) % BUYERS + 1}"), "name": name},
        "ship_to": {
            "name": f"{CANARY_NAME} Lager",
            "lines": [CANARY_STREET],
            "city": "Bremen",
            "postal_code": "28195",
            "country": country,
        },
        "currency": "EUR",
        "lines": [line(1, "P-1")],
    }
    return {**body, **changes}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An order, the key it is posted under, the ends that are right for it, and what its partner does.

    One who does not insist on an answer never learns what became of an order whose answer was lost: it exists, or it does not.
    One who regrets asks for the cancellation as soon as the order is accepted, while its steps are being taken.
    """

    key: str
    body: Body = field(repr=False)
    ends: frozenset[str]
    kind: str
    insists: bool = True
    regrets: bool = False

    @property
    def number(self) -> str:
        return str(self.body["order_number"])


# (kind, share in percent, the ends that are right for it)
MIX: Final = (
    ("fleet", 45, "completed"),
    ("http", 25, "completed"),
    ("short", 10, "refused"),
    ("declined", 10, "refused"),
    ("blocked", 5, "refused"),
    ("unpriced", 5, "refused"),
)


def orders(seed: int, count: int, mark: str, *, regretted: float = 0.0) -> list[Wanted]:
    """`count` orders of the mix, the same for the same seed and mark. Each kind occurs once there are enough.

    `regretted` is the share whose partner cancels at once; these may end as cancelled, or as their kind does.
    """
    chance = random.Random(seed)
    kinds = [kind for kind, _, _ in MIX][:count]
    kinds += chance.choices([kind for kind, _, _ in MIX], [share for _, share, _ in MIX], k=count - len(kinds))
    chance.shuffle(kinds)
    return [_wanted(kind, f"{mark}-{number}", chance, regretted) for number, kind in enumerate(kinds)]


def _wanted(kind: str, number: str, chance: random.Random, regretted: float) -> Wanted:
    skus = [f"P-{one}" for one in sorted(chance.sample(range(1, ITEMS + 1), chance.randint(1, 3)))]
    body = order(
        order_number=number,
        buyer_id=BUYER_WITHOUT_CREDIT if kind == "declined" else f"C-{chance.randint(1, BUYERS)}",
        name=BLOCKED if kind == "blocked" else CANARY_NAME,
        country=OVER_HTTP if kind == "http" else FLEET,
        lines=[line(position, sku, str(chance.randint(1, 3))) for position, sku in enumerate(skus, start=1)],
    )
    if kind == "short":
        body["lines"][-1]["quantity"] = str(MORE_THAN_ALL_STOCK)
    if kind == "unpriced":
        body["lines"][-1]["sku"] = "P-NOBODY-KNOWS"
    end = next(end for name, _, end in MIX if name == kind)
    regrets = chance.random() < regretted
    ends = frozenset({end, "cancelled"} if regrets else {end})
    return Wanted(f"key-{number}", body, ends, kind, insists=chance.random() < INSISTING, regrets=regrets)


@dataclass(frozen=True, slots=True)
class Partner:
    """Posts to any of the ingresses; which one may be dead at any moment."""

    api_key: str = field(repr=False)
    urls: Sequence[str]
    history: History

    async def run(self, wanted: Iterable[Wanted], *, per_second: float, patience: float = 60.0) -> None:
        """Posts at a steady rate, whatever becomes of the posts, and returns when each has been answered or given up."""
        room = asyncio.Semaphore(IN_FLIGHT_MAX)
        async with httpx2.AsyncClient(
            timeout=ATTEMPT_SECONDS_MAX, trust_env=False, limits=httpx2.Limits(max_connections=IN_FLIGHT_MAX)
        ) as client, asyncio.TaskGroup() as posts:  # fmt: skip
            began = time.monotonic()
            for position, one in enumerate(wanted):
                await asyncio.sleep(max(0.0, began + position / per_second - time.monotonic()))
                await room.acquire()
                post = posts.create_task(self._insist(client, one, patience))
                post.add_done_callback(lambda _: room.release())

    async def _insist(self, client: httpx2.AsyncClient, one: Wanted, patience: float) -> None:
        deadline = time.monotonic() + patience
        pauses = _pauses()
        while time.monotonic() < deadline:
            if await self._post(client, one) or not one.insists:
                return
            await asyncio.sleep(next(pauses))

    async def _post(self, client: httpx2.AsyncClient, one: Wanted) -> bool:
        """Whether the answer was definite."""
        url = random.choice(self.urls)
        self.history.posted(one.key)
        try:
            answer = await client.post(f"{url}/v1/orders", json=one.body, headers=self.headers(one.key))
        except httpx2.HTTPError as error:
            self.history.unknown(one.key, type(error).__name__)
            return False
        if answer.status_code >= 500 or answer.status_code in (409, 429):
            # A 5xx promises nothing: the order may have been accepted before what went wrong.
            self.history.unknown(one.key, f"HTTP {answer.status_code}")
            return False
        if answer.is_success:
            self.history.accepted(one.key, answer.json()["order_id"])
            if one.regrets:
                await self._cancel(client, url, one.key, answer.json()["order_id"])
        else:
            self.history.refused(one.key, answer.status_code, answer.text)
        return True

    async def _cancel(self, client: httpx2.AsyncClient, url: str, key: str, order_id: str) -> None:
        """Asks once; the order's end tells whether it was in time."""
        try:
            answer = await client.post(f"{url}/v1/orders/{order_id}/cancel", headers=self.headers(key))
        except httpx2.HTTPError as error:
            self.history.cancelling(key, type(error).__name__)
        else:
            self.history.cancelling(key, f"HTTP {answer.status_code}")

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.api_key}", "Idempotency-Key": key}


def _pauses() -> Iterator[float]:
    pause = 0.1
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(pause * 2, 2.0)
