"""How confirms are counted off against the delivery tags of one write, and whose cancellation is whose."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.broker.confirm_channel import Answer, Flight
from infra.broker.connection import BrokerUnreachable, library_failures

FIRST_TAG = 101
IDS = [f"message-{position}" for position in range(20)]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


confirms = st.tuples(st.integers(FIRST_TAG - 30, FIRST_TAG + 50), st.booleans(), st.sampled_from([Answer.ACK, Answer.NACK]))


@given(sequence=st.lists(confirms), returned=st.sets(st.integers(0, 19)))
def test_an_answer_counts_once_whatever_the_order_of_single_and_multiple_confirms(
    loop: asyncio.AbstractEventLoop, sequence: list[tuple[int, bool, Answer]], returned: set[int]
) -> None:
    flying = Flight(IDS, FIRST_TAG, loop.create_future())
    expected = [Answer.NONE] * len(IDS)
    for position in returned:
        flying.note_return(IDS[position])

    for tag, multiple, answer in sequence:
        flying.mark(tag, multiple=multiple, answer=answer)
        for position in range(len(IDS)):
            named = FIRST_TAG + position <= tag if multiple else FIRST_TAG + position == tag
            if named and expected[position] is Answer.NONE:
                expected[position] = Answer.RETURN if position in returned else answer

    assert flying.answers == expected
    assert flying.open == expected.count(Answer.NONE)
    assert flying.landed.done() == (flying.open == 0)


def test_a_multiple_confirm_that_comes_late_does_not_overrule(loop: asyncio.AbstractEventLoop) -> None:
    flying = Flight(IDS, FIRST_TAG, loop.create_future())

    flying.mark(FIRST_TAG + 3, multiple=False, answer=Answer.NACK)
    flying.mark(FIRST_TAG + 19, multiple=True, answer=Answer.ACK)

    assert flying.answers == [Answer.NACK if position == 3 else Answer.ACK for position in range(20)]
    assert flying.landed.done()


def test_a_return_of_another_flight_marks_nothing(loop: asyncio.AbstractEventLoop) -> None:
    flying = Flight(IDS, FIRST_TAG, loop.create_future())

    flying.note_return("somebody-else")
    flying.mark(FIRST_TAG + 19, multiple=True, answer=Answer.ACK)

    assert flying.answers == [Answer.ACK] * 20


def test_an_id_twice_in_a_write_is_a_mistake_of_the_caller(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(AssertionError, match="twice"):
        Flight(["same", "same"], FIRST_TAG, loop.create_future())


async def test_a_cancellation_by_the_library_is_a_failure_of_the_connection() -> None:
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    with pytest.raises(BrokerUnreachable), library_failures():
        await cancelled


async def test_a_cancellation_by_us_stays_one() -> None:
    async def wait() -> None:
        with library_failures():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
