"""The broker's topology as data: exchanges, queues, bindings, limits, users and what each may do. All of it from the registry.

One job applies it (`apply`); services declare nothing and may not configure anything. Applying it again changes nothing. Only the queue
type is an argument of a queue, since arguments cannot be changed later; every limit is a policy.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx2

from contracts.message import owner_of, unversioned
from contracts.registry import COMMANDERS, ENTRIES, FAILURE_DESK, SERVICES, SYSTEMS, queues
from infra.broker.names import COMMANDS, DEAD_LETTERS, EVENTS, REPLAY

DEAD_SUFFIX: Final = ".dead"

# The net below the loop's own crash lane (three recorded tries). Never -1: on 3.10 that drops at the first requeue.
DELIVERY_LIMIT: Final = 50
QUEUE_LENGTH_MAX: Final = 1_000_000
APPLY_SECONDS_MAX: Final = 30.0

USERS: Final = (*SERVICES, *SYSTEMS)


class TopologyError(RuntimeError):
    """The broker did not take the definitions; the text has its answer."""


def definitions(passwords: Mapping[str, str], vhost: str = "/", users: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document that RabbitMQ imports. `passwords` maps each of USERS to its password; only salted hashes go into the document."""
    missing = [user for user in USERS if user not in passwords]
    if missing:
        raise TopologyError(f"no password for {', '.join(missing)}; each broker user needs one")
    names = queues()
    return {
        "users": [
            {
                "name": user,
                "password_hash": _hash(passwords[user]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for user in USERS
        ],
        "vhosts": [{"name": vhost}],
        "permissions": [{"user": user, "vhost": vhost, **_permissions(user)} for user in USERS],
        "topic_permissions": [
            {"user": user, "vhost": vhost, "exchange": exchange, "write": pattern, "read": ".*"}
            for user in USERS
            for exchange, pattern in _topics(user).items()
        ],
        "policies": [_policy(queue, vhost) for queue in names],
        "exchanges": [
            {
                "name": name,
                "vhost": vhost,
                "type": kind,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
            for name, kind in ((COMMANDS, "topic"), (EVENTS, "topic"), (DEAD_LETTERS, "topic"), (REPLAY, "direct"))
        ],
        "queues": [
            {"name": name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": {"x-queue-type": "quorum"}}
            for queue in names
            for name in (queue, queue + DEAD_SUFFIX)
        ],
        "bindings": [
            {
                "source": source,
                "vhost": vhost,
                "destination": queue,
                "destination_type": "queue",
                "routing_key": key,
                "arguments": {},
            }
            for source, queue, key in bindings()
        ],
    }


def bindings() -> list[tuple[str, str, str]]:
    """(exchange, queue, routing key), sorted. A command's owner gets everything that is addressed to it, so that an unknown
    name becomes a dead letter and does not vanish. An event's receivers get all its versions, so that a newer one waits for them."""
    found: set[tuple[str, str, str]] = set()
    for entry in ENTRIES:
        for queue in entry.receivers:
            if entry.is_command:
                found.add((COMMANDS, queue, f"{entry.owner}.#"))
            else:
                found.add((EVENTS, queue, f"{unversioned(entry.wire_name)}.*"))
    for queue in queues():
        found.add((REPLAY, queue, queue))
        found.add((DEAD_LETTERS, queue + DEAD_SUFFIX, queue))
    return sorted(found)


def queues_of(service: str) -> tuple[str, ...]:
    """The queues that a service reads; their names begin with its own."""
    return tuple(queue for queue in queues() if owner_of(queue) == service)


def _permissions(user: str) -> dict[str, str]:
    if user in SYSTEMS:
        own = rf"{user}\..*"
        return {"configure": f"^{own}$", "write": f"^({EVENTS}|{own})$", "read": f"^({EVENTS}|{own})$"}
    writes = [EVENTS, DEAD_LETTERS, *([COMMANDS] if user in COMMANDERS else []), *([REPLAY] if user == FAILURE_DESK else [])]
    reads = [re.escape(queue) for queue in queues_of(user)]
    if user == FAILURE_DESK:
        reads.append(r".*\.dead")
    return {"configure": "^$", "write": _any(writes), "read": _any(reads)}


def _topics(user: str) -> dict[str, str]:
    sent = [entry for entry in ENTRIES if user in entry.senders]
    return {
        COMMANDS: _any(_versions(entry.wire_name for entry in sent if entry.is_command)),
        EVENTS: _any(_versions(entry.wire_name for entry in sent if not entry.is_command)),
        DEAD_LETTERS: _any(re.escape(queue) for queue in queues_of(user)),
    }


def _versions(wire_names: Iterable[str]) -> Sequence[str]:
    return sorted({re.escape(unversioned(name)) + r"\.v[0-9]+" for name in wire_names})


def _any(patterns: Iterable[str]) -> str:
    joined = "|".join(patterns)
    return f"^({joined})$" if joined else "^$"


def _policy(queue: str, vhost: str) -> dict[str, Any]:
    return {
        "vhost": vhost,
        "name": f"limits of {queue}",
        "pattern": f"^{re.escape(queue)}$",
        "apply-to": "queues",
        "priority": 1,
        "definition": {
            "delivery-limit": DELIVERY_LIMIT,
            "dead-letter-exchange": DEAD_LETTERS,
            "dead-letter-routing-key": queue,
            "dead-letter-strategy": "at-least-once",
            "overflow": "reject-publish",
            "max-length": QUEUE_LENGTH_MAX,
        },
    }


def _hash(password: str) -> str:
    """RabbitMQ's format: base64 of a 4-byte salt and SHA-256(salt + password)."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def apply(management_url: str, document: Mapping[str, Any], *, administrator: str | None = None) -> None:
    """Imports the definitions over the management API. Adds and updates, never deletes. Raises TopologyError with the broker's words.

    The administrator gets full permissions on the vhost, so that later jobs and operators' tools can work in it.
    """
    with httpx2.Client(base_url=management_url, timeout=APPLY_SECONDS_MAX, trust_env=False) as client:
        _expect(client.post("/api/definitions", json=dict(document)))
        if administrator is not None:
            for vhost in document["vhosts"]:
                path = f"/api/permissions/{quote(vhost['name'], safe='')}/{quote(administrator, safe='')}"
                _expect(client.put(path, json={"configure": ".*", "write": ".*", "read": ".*"}))


def _expect(response: httpx2.Response) -> None:
    if response.is_error:
        raise TopologyError(f"{response.request.url.path}: {response.status_code} {response.text[:500]}")
