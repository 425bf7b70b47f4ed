"""Questions that callers ask at the same time go together in one look-up."""

import asyncio

import pytest

from api.gathering import PACE_SECONDS, Gathering


class LookUp:
    """A look-up that notes its questions and answers when the test allows it."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.started: list[float] = []
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.under_way = 0

    async def __call__(self, questions: list[int]) -> set[int]:
        self.asked.append(questions)
        self.started.append(asyncio.get_running_loop().time())
        assert self.under_way == 0
        self.under_way += 1
        self.begun.set()
        try:
            await self.may_answer.wait()
        finally:
            self.under_way -= 1
        if 13 in questions:
            raise ValueError("thirteen")
        return set(questions)


async def test_what_comes_while_a_look_up_is_under_way_goes_together() -> None:
    look_up = LookUp()
    gathering = Gathering(look_up)
    first = [asyncio.create_task(gathering.ask([number])) for number in (1, 2)]
    await asyncio.wait_for(look_up.begun.wait(), 30)
    later = [asyncio.create_task(gathering.ask([number, number + 1])) for number in (3, 5, 7)]
    look_up.may_answer.set()
    answers = await asyncio.gather(*first, *later)
    assert look_up.asked == [[1, 2], [3, 4, 5, 6, 7, 8]]
    assert answers == [{1, 2}] * 2 + [{3, 4, 5, 6, 7, 8}] * 3
    assert look_up.started[1] - look_up.started[0] >= PACE_SECONDS


async def test_an_error_is_told_to_those_who_asked_and_to_no_one_else() -> None:
    look_up = LookUp()
    gathering = Gathering(look_up)
    first = [asyncio.create_task(gathering.ask([number])) for number in (12, 13)]
    await asyncio.wait_for(look_up.begun.wait(), 30)
    later = asyncio.create_task(gathering.ask([14]))
    look_up.may_answer.set()
    assert [str(error) for error in await asyncio.gather(*first, return_exceptions=True)] == ["thirteen"] * 2
    assert await later == {14}


async def test_who_leaves_does_not_take_the_answer_along() -> None:
    look_up = LookUp()
    gathering = Gathering(look_up)
    leaving, staying = (asyncio.create_task(gathering.ask([number])) for number in (1, 2))
    await asyncio.wait_for(look_up.begun.wait(), 30)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    look_up.may_answer.set()
    assert await staying == {1, 2}
