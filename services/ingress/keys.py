"""API keys: `tk_<key id>_<secret>`. The secret is shown once and kept as a keyed hash only."""

import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

SCOPES: Final = ("orders:read", "orders:write")
_KEY: Final = re.compile(r"tk_([a-z0-9]{8,32})_([A-Za-z0-9_\-]{20,100})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as its holder has it. Its text never shows the secret."""

    key_id: str
    secret: str = field(repr=False)

    def reveal(self) -> str:
        return f"tk_{self.key_id}_{self.secret}"

    def hashed(self, pepper: bytes) -> bytes:
        """HMAC-SHA256 under the pepper. The key id is part of it, so that hashes cannot be moved between rows."""
        return hmac.digest(pepper, f"{self.key_id}:{self.secret}".encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Account:
    """What a key stands for."""

    partner_id: str
    key_id: str
    secret_hash: bytes = field(repr=False)
    scopes: frozenset[str]
    requests_per_minute: int
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def opens_with(self, key: ApiKey, pepper: bytes, now: datetime) -> bool:
        """Whether this is the key, neither revoked nor expired. Compared in constant time."""
        same = hmac.compare_digest(self.secret_hash, key.hashed(pepper))
        alive = self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
        return same and alive


def new_key() -> ApiKey:
    """A key nobody has had before: 64 bits of id, 256 bits of secret."""
    return ApiKey(secrets.token_hex(8), secrets.token_hex(32))


def parse_key(text: str) -> ApiKey | None:
    """None when the text is no key of ours."""
    match = _KEY.fullmatch(text)
    return ApiKey(match[1], match[2]) if match else None
