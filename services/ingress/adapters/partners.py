"""Partners and their API keys in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.ingress.keys import SCOPES, Account, ApiKey, new_key, parse_key

# Two, so that the new one can be rolled out before the old one is revoked.
ACTIVE_KEYS_MAX: Final = 2
REQUESTS_PER_MINUTE: Final = 60_000

_CREATE = text("""
    INSERT INTO partner (partner_id, requests_per_minute, broker_users)
    VALUES (:partner_id, :requests_per_minute, CAST(:broker_users AS text[]))
    ON CONFLICT (partner_id) DO UPDATE
        SET requests_per_minute = excluded.requests_per_minute, broker_users = excluded.broker_users
""")
_LOCK_PARTNER = text("SELECT 1 FROM partner WHERE partner_id = :partner_id FOR UPDATE")
_KEYS = text("""
    SELECT key_id, secret_hash FROM partner_key
    WHERE partner_id = :partner_id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")
_ISSUE = text("""
    INSERT INTO partner_key (key_id, partner_id, secret_hash, scopes, expires_at)
    VALUES (:key_id, :partner_id, :secret_hash, CAST(:scopes AS text[]), :expires_at)
""")
_ACCOUNT = text("""
    SELECT partner_id, key_id, secret_hash, scopes, requests_per_minute, expires_at, revoked_at
    FROM partner_key JOIN partner USING (partner_id)
    WHERE key_id = :key_id
""")
# To the hour: enough to find keys that nobody uses, without a write for every request.
_TOUCH = text("""
    UPDATE partner_key SET last_used_at = date_trunc('hour', now())
    WHERE key_id = ANY(CAST(:key_ids AS text[])) AND last_used_at IS DISTINCT FROM date_trunc('hour', now())
""")


class KeyRefused(ValueError):
    """The key cannot be issued: unknown partner, too many active keys, or no key of our form."""


async def create_partner(
    connection: AsyncConnection,
    partner_id: str,
    *,
    broker_users: Sequence[str] = (),
    requests_per_minute: int = REQUESTS_PER_MINUTE,
) -> None:
    """Creates the partner, or gives it this rate and these broker users. Repeating it changes nothing."""
    await connection.execute(
        _CREATE,
        {"partner_id": partner_id, "requests_per_minute": requests_per_minute, "broker_users": list(broker_users)},
    )


async def issue_key(
    connection: AsyncConnection,
    pepper: str,
    partner_id: str,
    *,
    api_key: str | None = None,
    scopes: Sequence[str] = SCOPES,
    expires_at: datetime | None = None,
) -> str:
    """A new key for the partner, in full: this is the only time it is shown.

    `api_key` issues a given key (`tk_<key id>_<secret>`); giving the same again changes nothing. Raises KeyRefused.
    """
    key = _given(api_key) if api_key is not None else new_key()
    # The partner's row is the lock: two requests at once cannot both find room for one more key.
    if (await connection.execute(_LOCK_PARTNER, {"partner_id": partner_id})).first() is None:
        raise KeyRefused(f"there is no partner {partner_id!r}; create it first")
    active = {key_id: bytes(hashed) for key_id, hashed in await connection.execute(_KEYS, {"partner_id": partner_id})}
    hashed = key.hashed(pepper.encode())
    if active.get(key.key_id) == hashed:
        return key.reveal()
    if len(active) >= ACTIVE_KEYS_MAX:
        raise KeyRefused(f"partner {partner_id!r} has {len(active)} active keys; revoke one of {sorted(active)} first")
    await connection.execute(
        _ISSUE,
        {
            "key_id": key.key_id,
            "partner_id": partner_id,
            "secret_hash": hashed,
            "scopes": list(scopes),
            "expires_at": expires_at,
        },
    )
    return key.reveal()


async def find_account(connection: AsyncConnection, key_id: str) -> Account | None:
    """What the key stands for, revoked and expired ones included."""
    row = (await connection.execute(_ACCOUNT, {"key_id": key_id})).first()
    if row is None:
        return None
    partner_id, found_id, secret_hash, scopes, requests_per_minute, expires_at, revoked_at = row
    return Account(
        partner_id=partner_id,
        key_id=found_id,
        secret_hash=bytes(secret_hash),
        scopes=frozenset(scopes),
        requests_per_minute=requests_per_minute,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


async def touch_keys(connection: AsyncConnection, key_ids: Sequence[str]) -> None:
    """Notes that these keys were used in this hour."""
    await connection.execute(_TOUCH, {"key_ids": sorted(key_ids)})


def _given(api_key: str) -> ApiKey:
    key = parse_key(api_key)
    if key is None:
        raise KeyRefused("a given key reads tk_<key id of 8 to 32 a-z0-9>_<secret of 20 to 100 letters and digits>")
    return key
