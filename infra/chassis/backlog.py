"""Whether the answers that wait in the queue have been read, so that rows cannot overtake them. Pure: moments come as arguments.

A timer that fires while answers cannot arrive would blame a service that has answered. So after a start, an outage of the broker or
the database, and a pause of the process, rows wait until as many messages have been read as the queue held then, or until no message
has come for a while. Moments are those of a monotonic clock, in seconds.
"""

from typing import Final

QUIET_SECONDS: Final = 1.0
AFTER_START_SECONDS: Final = 1.0
PAUSED_SECONDS: Final = 3.0


class Backlog:
    """What is known of one queue. `connected` is False while answers cannot arrive, and while it is not known how many wait."""

    def __init__(self, now: float) -> None:
        self.connected = False
        self.turned_at = now
        self._unread = 0
        self._since = now
        self._complete = False
        self._last_delivery = now

    def measured(self, ready: int, now: float) -> None:
        """The queue held this many messages when consumption began, or began again."""
        self._unread = ready
        self._since = now
        self._complete = False
        self.connected = True

    def lost(self) -> None:
        """Answers cannot arrive any more."""
        self.connected = False

    def delivered(self, now: float) -> None:
        """A message has come."""
        self._last_delivery = now

    def read(self, count: int) -> None:
        """So many messages are being handled."""
        self._unread -= count

    def resting(self, now: float) -> None:
        """The loop waits for its database, which is no pause of the process."""
        self.turned_at = now
        self._since = now

    def notice_pause(self, now: float) -> bool:
        """Whether the process stood still since the last look (a frozen machine, a stalled event loop).

        Then answers wait in the queue, and the timers that fell due meanwhile must not overtake them: rows wait until the watchdog
        has measured the backlog anew. A slow transaction looks the same, and costs the rows a few seconds.
        """
        before, self.turned_at = self.turned_at, now
        if now - before <= PAUSED_SECONDS:
            return False
        self.lost()
        return True

    def is_read(self, now: float, waiting: int) -> bool:
        """Whether rows may be taken now. `waiting` messages have been delivered and not been handled."""
        if not self.connected or now - self._since < AFTER_START_SECONDS:
            return False
        if not self._complete:
            # The broker has counted ready messages only: those that it had delivered, and we had not handled, come on top.
            self._unread += waiting
            self._complete = True
        quiet = not waiting and now - self._last_delivery >= QUIET_SECONDS
        return self._unread <= 0 or quiet
