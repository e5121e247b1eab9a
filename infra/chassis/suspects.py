"""Messages that may kill the process: counted by committed tries, because a delivery count only raises suspicion.

A killed consumer raises the broker's count for every message that it held. So a message with a suspicious count is taken alone,
after its try has been committed: whoever kills the process has the try in its own name, and its innocent neighbours do not.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from infra.chassis.decoding import Raw, body_identity
from infra.chassis.inbox import MessageKey

COUNT_TRY = text(
    """
    INSERT INTO suspect (consumer, identity, tries) VALUES (:consumer, :identity, 1)
    ON CONFLICT ON CONSTRAINT suspect_one_row_per_message DO UPDATE SET tries = suspect.tries + 1, last_at = now()
    RETURNING tries
    """
)
TAKE_BACK = text("UPDATE suspect SET tries = tries - 1 WHERE consumer = :consumer AND identity = :identity AND tries > 0")
FORGET = text("DELETE FROM suspect WHERE consumer = :consumer AND identity = :identity")


def identity(key: MessageKey | None, raw: Raw) -> str:
    """The message's own id, or the hash of its bytes where it has none."""
    return "\n".join(key) if key else body_identity(raw)


async def count_try(connection: AsyncConnection, consumer: str, identity: str) -> int:
    """Adds a try and returns how many there are now; the caller commits before it touches the message."""
    return int((await connection.execute(COUNT_TRY, {"consumer": consumer, "identity": identity})).scalar_one())


async def take_back(connection: AsyncConnection, consumer: str, identity: str) -> None:
    """Takes one try back: it was ended by somebody who stopped the process, not by the input."""
    await connection.execute(TAKE_BACK, {"consumer": consumer, "identity": identity})


async def forget(connection: AsyncConnection, consumer: str, identity: str) -> None:
    """Ends the count, once the input has been dealt with. Rows come again under the same name (the timer of one saga)."""
    await connection.execute(FORGET, {"consumer": consumer, "identity": identity})
