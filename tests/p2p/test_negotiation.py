"""Choosing a stream's protocol, the answering side: so many names, so long a line, so many seconds."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from p2p.negotiation import HELLO, LINE_BYTES_MAX, NAMES_MAX, NEGOTIATE_S, BadNegotiation, negotiate
from p2p.protobuf import write_varint


class FakeStream:
    def __init__(self, end: Any) -> None:
        self._end = end

    async def read(self, size: int) -> bytes:
        return bytes(await self._end.receive_some(size))

    async def write(self, data: bytes) -> None:
        await self._end.send_all(data)


def line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return write_varint(len(data)) + data


def run(said: bytes, handlers: dict[str, str]) -> Any:
    """What comes of a stream on which a peer says this and then nothing, on virtual time."""

    async def main() -> Any:
        theirs, ours = memory_stream_pair()
        await theirs.send_all(said)
        with trio.fail_after(10 * NEGOTIATE_S):
            return await negotiate(FakeStream(ours), handlers)  # type: ignore[arg-type]

    return trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_peer_may_ask_for_some_names_before_one_is_served() -> None:
    others = b"".join(line(f"/other/{number}") for number in range(NAMES_MAX - 1))
    assert run(line(HELLO) + others + line("/ours/1"), {"/ours/1": "handler"}) == ("/ours/1", "handler")


def test_a_peer_that_goes_on_asking_for_names_we_do_not_serve_is_at_fault() -> None:
    with pytest.raises(BadNegotiation, match="more than"):
        run(line(HELLO) + line("/other/1") * (NAMES_MAX + 1) + line("/ours/1"), {"/ours/1": "handler"})


@pytest.mark.parametrize(
    "said", [line("GET /"), line(HELLO) + write_varint(LINE_BYTES_MAX + 1), line(HELLO) + b"\x01x"]
)
def test_what_is_no_negotiation_is_a_fault(said: bytes) -> None:
    with pytest.raises(BadNegotiation):
        run(said, {})


@pytest.mark.parametrize("said", [b"", line(HELLO), line(HELLO)[:5]])
def test_a_peer_that_does_not_choose_in_time_is_given_up(said: bytes) -> None:
    async def main() -> float:
        theirs, ours = memory_stream_pair()
        await theirs.send_all(said)
        with trio.move_on_after(10 * NEGOTIATE_S), pytest.raises(trio.TooSlowError):
            await negotiate(FakeStream(ours), {})  # type: ignore[arg-type]
        return trio.current_time()

    clock = MockClock(autojump_threshold=0)
    start_s = clock.current_time()
    assert trio.run(main, clock=clock) - start_s == pytest.approx(NEGOTIATE_S)
