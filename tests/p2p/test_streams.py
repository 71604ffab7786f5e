"""Requests and answers over streams, alone: how much one peer may hold of ours, and by when everything has ended."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from p2p import frame_stream, streams
from p2p.frame_stream import FRAME_S, Gathering
from p2p.frames import ANSWER, ASK, REFUSAL, TELL, Frame, Frames, write_frame
from p2p.net import STREAM_BYTES_MAX, Answered, Asked, Unanswered
from p2p.peer_ids import to_peer
from p2p.streams import PER_PEER_MAX, REPLY_S, Answers, Requests

PEER = b"p" * 32
PROTOCOL = "/echo/1"


class FakeStream:
    """One end of a stream of a peer's, pushed to and fed from as `MuxedStream` is. `end` is the peer's."""

    def __init__(self, nursery: trio.Nursery, node: bytes = PEER) -> None:
        self.end, self._ours = memory_stream_pair()
        self.muxed_stream = self
        self.muxed_conn = SimpleNamespace(peer_id=to_peer(node))
        self._nursery = nursery
        self._more = trio.Event()

    def push_to(self, on_data: Callable[[bytes], None], on_end: Callable[[str | None], None]) -> None:
        async def push() -> None:
            try:
                while data := bytes(await self._ours.receive_some(65_536)):
                    on_data(data)
                on_end(None)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                on_end(repr(error))

        self._nursery.start_soon(push)

    def feed_from(self, produce: Callable[[int], bytes]) -> None:
        async def feed() -> None:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                try:
                    while data := produce(1_000):
                        await self._ours.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return

        self._nursery.start_soon(feed)

    def has_more(self) -> None:
        self._more.set()

    async def reset(self) -> None:
        await self._ours.aclose()


class Server:
    """The serving side, what it was asked, and whom it found at fault."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.events: list[Any] = []
        self.faults: list[tuple[str, bool]] = []
        self.answers = Answers(
            self.events.append, lambda node, why, is_violation: self.faults.append((why, is_violation)), Gathering()
        )

    def open(self, node: bytes = PEER) -> Any:
        """A stream of a peer's; the peer's end of it."""
        stream = FakeStream(self._nursery, node)
        self._nursery.start_soon(self.answers.take_stream, PROTOCOL, stream)
        return stream.end

    @property
    def tokens(self) -> list[str]:
        return [event.token for event in self.events if isinstance(event, Asked)]


async def read_frames(end: Any, count: int) -> list[Frame]:
    frames, found = Frames(), []
    while len(found) < count:
        frames.feed(await end.receive_some(65_536))
        while (frame := frames.take()) is not None:
            found.append(frame)
    return found


def run(main: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """On virtual time; everything that still runs is cancelled at the end."""

    async def bounded() -> None:
        with trio.fail_after(10 * REPLY_S):
            async with trio.open_nursery() as nursery:
                await main(nursery)
                nursery.cancel_scope.cancel()

    trio.run(bounded, clock=MockClock(autojump_threshold=0))


def test_one_peer_has_only_so_many_questions_waiting_whatever_stream_they_came_on() -> None:
    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        ends = [server.open() for _ in range(2)]
        for number in range(PER_PEER_MAX):
            await ends[number % 2].send_all(write_frame(ASK, number, b"q"))
        await ends[0].send_all(write_frame(ASK, 999, b"one too many"))
        (refused,) = await read_frames(ends[0], 1)
        assert (refused.kind, refused.number, len(server.tokens)) == (REFUSAL, 999, PER_PEER_MAX)
        await server.open(b"o" * 32).send_all(write_frame(ASK, 1, b"of another peer"))
        await wait_all_tasks_blocked()
        assert len(server.tokens) == PER_PEER_MAX + 1
        server.answers.reply(server.tokens[0], b"done")
        await ends[0].send_all(write_frame(ASK, 1_000, b"there is room again"))
        await wait_all_tasks_blocked()
        assert len(server.tokens) == PER_PEER_MAX + 2

    run(main)


def test_what_a_peer_tells_us_takes_up_room_until_it_is_dealt_with_and_is_never_answered() -> None:
    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        end = server.open()
        for _ in range(PER_PEER_MAX + 1):
            await end.send_all(write_frame(TELL, 0, b"word"))
        await end.send_all(write_frame(ASK, 7, b"question"))
        (refused,) = await read_frames(end, 1)
        assert (refused.kind, refused.number, len(server.tokens)) == (REFUSAL, 7, PER_PEER_MAX)
        for token in server.tokens:
            server.answers.reply(token, b"dealt with")
        await end.send_all(write_frame(ASK, 8, b"question"))
        await wait_all_tasks_blocked()
        server.answers.reply(server.tokens[-1], b"answer")
        assert await read_frames(end, 1) == [Frame(ANSWER, 8, b"answer")]

    run(main)


def test_one_peers_questions_hold_so_many_bytes_counted_before_they_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PER_PEER_BYTES_MAX", 1_000)

    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        begun, other = server.open(), server.open()
        await begun.send_all(write_frame(ASK, 1, bytes(900))[:50])  # and never the rest
        await wait_all_tasks_blocked()
        await other.send_all(write_frame(ASK, 2, bytes(200)))
        (refused,) = await read_frames(other, 1)
        assert (refused.kind, refused.number) == (REFUSAL, 2)
        await begun.aclose()
        await wait_all_tasks_blocked()
        await other.send_all(write_frame(ASK, 3, bytes(200)))
        await wait_all_tasks_blocked()
        assert len(server.tokens) == 1, "what never became whole is no longer counted"

    run(main)


def test_a_question_nobody_answers_is_forgotten_and_so_are_those_of_a_stream_that_ended() -> None:
    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        end, ended = server.open(), server.open()
        await end.send_all(write_frame(ASK, 1, b"q"))
        await ended.send_all(write_frame(ASK, 1, b"q"))
        await wait_all_tasks_blocked()
        assert server.answers.get_sizes()["asked"] == 2
        await ended.aclose()
        await wait_all_tasks_blocked()
        assert server.answers.get_sizes()["asked"] == 1
        await trio.sleep(REPLY_S + 1)
        server.answers.reply(server.tokens[0], b"too late")
        await end.send_all(write_frame(ASK, 2, b"q"))
        await wait_all_tasks_blocked()
        server.answers.reply(server.tokens[-1], b"in time")
        assert await read_frames(end, 1) == [Frame(ANSWER, 2, b"in time")]
        assert server.answers.get_sizes() == {"asked": 0, "askers": 0}

    run(main)


def test_answers_a_peer_does_not_read_are_refused_beyond_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_stream, "OUT_BYTES_MAX", 1_000)

    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        end = server.open()
        for number in range(3):
            await end.send_all(write_frame(ASK, number, b"q"))
        await wait_all_tasks_blocked()
        for token in server.tokens:
            server.answers.reply(token, bytes(600))
        found = await read_frames(end, 3)
        assert [(frame.kind, len(frame.body) == 600) for frame in found] == [
            (ANSWER, True),
            (REFUSAL, False),
            (REFUSAL, False),
        ]

    run(main)


@pytest.mark.parametrize(
    "junk",
    [
        write_frame(ANSWER, 1, b"nobody asked"),
        write_frame(7, 1, b"no kind"),
        write_frame(ASK, 1, b"")[:5] + (STREAM_BYTES_MAX + 1).to_bytes(4, "big"),
    ],
    ids=["an answer", "no kind", "too long"],
)
def test_a_frame_against_the_rules_ends_the_stream_and_is_a_violation(junk: bytes) -> None:
    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        end = server.open()
        await end.send_all(junk)
        assert await end.receive_some(1) == b""
        assert [is_violation for _, is_violation in server.faults] == [True]
        assert server.tokens == []

    run(main)


def test_a_frame_that_has_begun_and_does_not_end_ends_the_stream_and_is_no_violation() -> None:
    async def main(nursery: trio.Nursery) -> None:
        server = Server(nursery)
        end = server.open()
        await trio.sleep(2 * FRAME_S)  # a stream on which nothing is asked may stay open
        await end.send_all(write_frame(ASK, 1, bytes(100))[:-1])
        await trio.sleep(FRAME_S / 2)
        assert server.faults == []
        assert await end.receive_some(1) == b""
        assert [is_violation for _, is_violation in server.faults] == [False]

    run(main)


class Asker:
    """The asking side, against a peer that takes streams and says what it likes."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.events: list[Any] = []
        self.ends: list[Any] = []
        self._nursery = nursery
        self.requests = Requests(
            self._connect, self._open_stream, self.events.append, self.events.append, nursery, Gathering()
        )
        nursery.start_soon(self.requests.expire_forever)

    async def _connect(self, node: bytes) -> bool:
        return True

    async def _open_stream(self, node: bytes, protocol: str) -> Any:
        stream = FakeStream(self._nursery, node)
        self.ends.append(stream.end)
        return stream


def test_a_request_ends_when_its_time_is_up_and_an_answer_after_that_is_nobodys() -> None:
    async def main(nursery: trio.Nursery) -> None:
        asker = Asker(nursery)
        asker.requests.ask(PEER, PROTOCOL, b"q", "slow", 5_000)
        await wait_all_tasks_blocked()
        asker.requests.ask(PEER, PROTOCOL, b"q", "quick", 1_000)
        await trio.sleep(2)
        assert asker.events == [Unanswered("quick", "timeout: no answer in time")]
        (end,) = asker.ends
        for frame in await read_frames(end, 2):
            await end.send_all(write_frame(ANSWER, frame.number, b"a"))
        await wait_all_tasks_blocked()
        assert asker.events[1:] == [Answered("slow", b"a")]
        assert asker.requests.get_sizes()["asking"] == 0

    run(main)


def test_our_own_requests_are_bounded_and_each_still_has_its_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "REQUESTS_MAX", 3)

    async def main(nursery: trio.Nursery) -> None:
        asker = Asker(nursery)
        for number in range(5):
            asker.requests.ask(PEER, PROTOCOL, b"q", f"r{number}", 1_000)
        assert asker.events == [Unanswered(f"r{number}", "too many requests under way") for number in (3, 4)]
        await trio.sleep(2)
        assert sorted(event.token for event in asker.events) == [f"r{number}" for number in range(5)]

    run(main)
