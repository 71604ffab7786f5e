"""Both halves of a stream of requests end together, and nothing of them stays."""

import gc
import weakref
from functools import partial

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import IOException

from p2p.frames import BadFrame
from p2p.streams import Ended, SlowFrame, carry
from tests.p2p.loopback import run


class Stream:
    """What both halves hold."""


async def fail(stream: Stream, error: Exception) -> None:
    await trio.testing.wait_all_tasks_blocked()
    raise error


async def break_off(stream: Stream) -> None:
    await trio.testing.wait_all_tasks_blocked()
    raise IOException("gone")  # not from outside: an error its own frame holds is a ring


async def wait(stream: Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (IOException("gone"), Ended("the stream broke: IOException('gone')")),
        (BadFrame("odd"), Ended("the peer broke a rule: odd", "odd", is_violation=True)),
        (SlowFrame(), Ended(f"the peer broke a rule: {SlowFrame()}", str(SlowFrame()))),
    ],
)
@pytest.mark.parametrize("is_reader", [True, False])
def test_when_one_half_of_a_stream_fails_the_other_ends_and_it_is_said_why(
    error: Exception, ended: Ended, is_reader: bool
) -> None:
    async def main() -> Ended:
        failing, waiting = partial(fail, Stream(), error), partial(wait, Stream())
        return await (carry(failing, waiting) if is_reader else carry(waiting, failing))

    assert run(main) == ended


@pytest.mark.parametrize("is_reader", [True, False])
def test_a_stream_that_broke_is_freed_without_the_garbage_collector(is_reader: bool) -> None:
    async def use() -> weakref.ref[Stream]:
        stream = Stream()
        failing, waiting = partial(break_off, stream), partial(wait, stream)
        await (carry(failing, waiting) if is_reader else carry(waiting, failing))
        return weakref.ref(stream)

    async def main() -> bool:
        left = await use()
        await trio.testing.wait_all_tasks_blocked()
        return left() is None

    gc.disable()
    try:
        assert run(main)
    finally:
        gc.enable()


def test_what_is_nobodys_fault_but_ours_is_let_through() -> None:
    async def main() -> None:
        await carry(partial(fail, Stream(), KeyError("ours")), partial(wait, Stream()))

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(KeyError)
