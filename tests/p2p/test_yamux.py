"""The yamux session: every byte in order, windows kept, limits held, whatever arrives."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.yamux import Yamux
from p2p.yamux_words import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    INITIAL_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    Data,
    Finished,
    GoneAway,
    NoStream,
    Opened,
    Ponged,
    WasReset,
    Writable,
    YamuxLimits,
    YamuxViolation,
)
from protocol.errors import LocalError
from tests.support.examples import scale

LIMITS = YamuxLimits()


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream_id, length) + body


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream_id, len(body), body)


def frames(wire: bytes) -> list[tuple[int, int, int, int]]:
    """(kind, flags, stream, length) of each frame on the wire; the parser of this test alone."""
    found, at = [], 0
    while at < len(wire):
        version, *rest, length = HEADER.unpack_from(wire, at)
        assert version == 0
        found.append((*rest, length))
        at += 12 + (length if rest[0] == DATA else 0)
    assert at == len(wire)
    return found


@pytest.fixture
def client() -> Yamux:
    return Yamux(is_client=True)


@pytest.fixture
def server() -> Yamux:
    return Yamux(is_client=False)


class Pair:
    """Two sessions and the bytes between them; counts what each stream sent and received, and watches the windows."""

    def __init__(self) -> None:
        self.sides = [Yamux(True), Yamux(False)]
        self.wires = [bytearray(), bytearray()]  # towards side i
        self.sent: dict[tuple[int, int], bytearray] = {}  # by receiving side and stream
        self.got: dict[tuple[int, int], bytearray] = {}
        self.unread: list[dict[int, int]] = [{}, {}]
        self.streams: list[list[int]] = [[], []]
        self.finished: set[tuple[int, int]] = set()
        self.ended: set[tuple[int, int]] = set()
        self.broken: set[int] = set()
        self.pings: list[list[int]] = [[], []]  # not yet answered
        self.count = 0

    def open(self, side: int) -> None:
        stream_id = self.sides[side].open()
        self.streams[side].append(stream_id)

    def pick(self, side: int, index: int) -> int | None:
        streams = self.streams[side]
        return streams[index % len(streams)] if streams else None

    def send(self, side: int, index: int, size: int) -> None:
        stream_id = self.pick(side, index)
        if stream_id is None:
            return
        self.count += 1
        body = (self.count.to_bytes(4, "big") * (size // 4 + 1))[:size]
        taken = self.sides[side].send(stream_id, body)
        assert taken <= size
        self.sent.setdefault((1 - side, stream_id), bytearray()).extend(body[:taken])

    def finish(self, side: int, index: int) -> None:
        if (stream_id := self.pick(side, index)) is not None and (side, stream_id) not in self.ended:
            self.sides[side].finish(stream_id)
            self.ended.add((side, stream_id))

    def reset(self, side: int, index: int) -> None:
        if (stream_id := self.pick(side, index)) is not None:
            self.sides[side].reset(stream_id)
            self.broken.add(stream_id)

    def ping(self, side: int, value: int) -> None:
        if len(self.pings[side]) < LIMITS.pongs_max:
            self.sides[side].ping(value)
            self.pings[side].append(value)

    def consume(self, side: int, index: int, size: int) -> None:
        if (stream_id := self.pick(side, index)) is not None:
            unread = self.unread[side].get(stream_id, 0)
            self.sides[side].consume(stream_id, min(size, unread))
            self.unread[side][stream_id] = unread - min(size, unread)

    def carry(self, side: int, size: int) -> None:
        """Let at most size bytes reach a side."""
        self.wires[side] += self.sides[1 - side].bytes_to_send()
        chunk = bytes(self.wires[side][:size])
        del self.wires[side][:size]
        for event in self.sides[side].receive(chunk):
            self.take(side, event)
        assert self.sides[side].unread_bytes <= LIMITS.unread_bytes_max

    def take(self, side: int, event: object) -> None:
        match event:
            case Opened(stream_id):
                self.sides[side].accept(stream_id)
                self.streams[side].append(stream_id)
            case Data(stream_id, body):
                self.got.setdefault((side, stream_id), bytearray()).extend(body)
                unread = self.unread[side][stream_id] = self.unread[side].get(stream_id, 0) + len(body)
                assert unread <= INITIAL_WINDOW
            case Finished(stream_id):
                assert (side, stream_id) not in self.finished
                self.finished.add((side, stream_id))
            case WasReset(stream_id):
                assert stream_id in self.broken
            case Ponged(value):
                assert self.pings[side].pop(0) == value

    def settle(self) -> None:
        """Carry and consume everything until nothing moves."""
        for _ in range(10_000):
            for side in (0, 1):
                self.carry(side, 2**30)
                for index in range(len(self.streams[side])):
                    self.consume(side, index, 2**30)
            if not any(session.has_to_send for session in self.sides):
                return
        raise AssertionError("never quiet")

    def pump(self, side: int, index: int) -> None:
        """Half a window and a bit more: sent, carried, consumed, and the credit carried back."""
        self.send(side, index, INITIAL_WINDOW // 2 + 10_000)
        self.carry(1 - side, 2**30)
        self.consume(1 - side, index, 2**30)
        self.carry(side, 2**30)


SIDE, INDEX = st.integers(0, 1), st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("open"), SIDE),
    st.tuples(st.just("send"), SIDE, INDEX, st.integers(0, 400_000)),
    st.tuples(st.just("consume"), SIDE, INDEX, st.integers(0, 300_000)),
    st.tuples(st.just("send"), SIDE, INDEX, st.integers(1, 2_000)),
    st.tuples(st.just("pump"), SIDE, INDEX),
    st.tuples(st.just("carry"), SIDE, st.integers(1, 100_000)),
    st.tuples(st.just("carry"), SIDE, st.integers(1, 30)),
    st.tuples(st.just("finish"), SIDE, INDEX),
    st.tuples(st.just("reset"), SIDE, INDEX),
    st.tuples(st.just("ping"), SIDE, st.integers(0, 2**32 - 1)),
)


@settings(max_examples=scale(150), deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=60), SIDE)
def test_any_interleaving_over_any_cutting_delivers_every_byte_in_order(steps, leaver):
    pair = Pair()
    for side in (0, 0, 1):
        pair.open(side)
    for name, *arguments in steps:
        getattr(pair, name)(*arguments)
    pair.settle()

    for key, body in pair.sent.items():
        got = pair.got.get(key, bytearray())
        assert body.startswith(got) if key[1] in pair.broken else body == got
    for side, stream_id in pair.ended:
        assert (1 - side, stream_id) in pair.finished or stream_id in pair.broken
    for session in pair.sides:
        assert session.unread_bytes == 0
        for stream_id in session.stream_ids():
            assert stream_id not in pair.broken
    assert pair.pings == [[], []]
    leave(pair, leaver)


def leave(pair, leaver):
    """After a go-away neither side opens anything, and the other hears nothing more."""
    gone, left = pair.sides[leaver], pair.sides[1 - leaver]
    gone.go_away()
    gone.ping(1)
    assert left.receive(gone.bytes_to_send()) == [GoneAway(0)]
    assert left.is_over
    for session in (gone, left):
        with pytest.raises(NoStream):
            session.open()
    assert left.receive(frame(PING, SYN, 0, 1)) == []


FRAMES = st.one_of(
    st.binary(max_size=64),
    st.builds(
        lambda kind, flags, stream_id, length, body: frame(kind, flags, stream_id, length, body[:length]),
        st.integers(0, 4),
        st.integers(0, 15) | st.integers(0, 65_535),
        st.integers(0, 9) | st.integers(0, 2**32 - 1),
        st.integers(0, 40) | st.integers(0, 2**32 - 1),
        st.binary(max_size=40),
    ),
    st.builds(data, st.integers(1, 9), st.just(bytes(30_000)), st.integers(0, 15)),
)


@settings(max_examples=scale(400), deadline=None)
@given(st.lists(FRAMES, max_size=40), st.booleans(), st.integers(1, 5_000))
def test_whatever_arrives_ends_in_our_own_error_or_in_bounded_memory(pieces, is_client, cut):
    session = Yamux(is_client)
    wire = b"".join(pieces)
    session.send(session.open(), b"x" * 1_000)
    try:
        for at in range(0, len(wire), cut):
            for event in session.receive(wire[at : at + cut]):
                if isinstance(event, Opened):
                    session.accept(event.stream_id)
            assert session.unread_bytes <= LIMITS.unread_bytes_max
            assert session.out_bytes <= LIMITS.out_bytes_max + LIMITS.control_bytes_max + 12 * 64
            assert len(session.stream_ids()) <= LIMITS.streams_inbound_max + 1
    except YamuxViolation:
        assert session.receive(b"anything") == []
        assert (GO_AWAY, 0, 0, 1) in frames(bytes(session.bytes_to_send()))


@pytest.mark.parametrize(
    "piece",
    [
        frame(WINDOW_UPDATE, 0, 1, 1),
        frame(WINDOW_UPDATE, 0, 77, 1),
        frame(PING, ACK, 0, 1),
        frame(WINDOW_UPDATE, SYN, 1, 0) + frame(WINDOW_UPDATE, RST, 1, 0),
    ],
    ids=["credit", "credit for nobody", "pongs", "open and reset"],
)
def test_a_flood_of_small_frames_costs_little_time(server, piece):
    batch = piece * (64 * 1024 // len(piece))
    started = time.process_time()

    for _ in range(10):
        server.receive(batch)
        server.bytes_to_send()

    assert time.process_time() - started < 2.0


class TestStrays:
    """Data for a stream that is none."""

    def test_what_may_be_on_its_way_to_a_stream_we_ended_is_passed_over_and_a_byte_more_ends_the_session(self, server):
        server.receive(data(1, b"", SYN))
        server.reset(1)
        server.bytes_to_send()
        for _ in range(4):
            assert server.receive(data(1, bytes(INITIAL_WINDOW // 4))) == []
        with pytest.raises(YamuxViolation, match="which is none"):
            server.receive(data(1, b"x"))

    def test_data_for_a_stream_that_never_was_or_that_its_sender_ended_ends_the_session(self, server):
        server.receive(frame(WINDOW_UPDATE, SYN, 1, 0) + frame(WINDOW_UPDATE, RST, 1, 0))
        with pytest.raises(YamuxViolation, match="which is none"):
            server.receive(data(1, b"x"))

    def test_data_for_a_stream_we_refused_is_passed_over(self, server):
        for i in range(LIMITS.streams_inbound_max + 1):
            server.receive(frame(WINDOW_UPDATE, SYN, 2 * i + 1, 0))
        assert server.receive(data(2 * LIMITS.streams_inbound_max + 1, b"said before it heard of that")) == []


class TestOpening:
    def test_the_first_data_frame_opens_the_stream(self, client, server):
        stream_id = client.open()
        client.send(stream_id, b"hello")

        wire = client.bytes_to_send()

        assert frames(wire) == [(DATA, SYN, 1, 5)]
        assert server.receive(wire) == [Opened(1), Data(1, b"hello")]

    def test_a_stream_nothing_is_sent_on_is_announced_all_the_same(self, client, server):
        client.open()
        assert frames(client.bytes_to_send()) == [(WINDOW_UPDATE, SYN, 1, 0)]
        assert not client.has_to_send

    def test_the_acknowledgement_travels_with_the_first_answer(self, client, server):
        stream_id = client.open()
        server.receive(client.bytes_to_send())
        server.send(stream_id, b"answer")
        assert frames(server.bytes_to_send()) == [(DATA, ACK, 1, 6)]

    def test_an_acknowledgement_may_go_alone(self, server):
        server.receive(frame(WINDOW_UPDATE, SYN, 1, 0))
        server.accept(1)
        server.accept(1)
        assert frames(server.bytes_to_send()) == [(WINDOW_UPDATE, ACK, 1, 0)]
        server.accept(1)
        assert not server.has_to_send

    def test_each_side_numbers_its_own_streams(self, client, server):
        assert [client.open(), client.open()] == [1, 3]
        assert [server.open(), server.open()] == [2, 4]

    @pytest.mark.parametrize("wire", [frame(DATA, SYN, 2, 0), frame(DATA, SYN, 0, 0), frame(DATA, SYN, 1, 0) * 2])
    def test_a_number_that_is_taken_or_not_theirs_ends_the_session(self, server, wire):
        with pytest.raises(YamuxViolation):
            server.receive(wire)

    def test_streams_beyond_the_limit_are_refused_and_the_others_live(self, server):
        opened = server.receive(b"".join(frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0) for n in range(70)))

        assert opened == [Opened(2 * n + 1) for n in range(64)]
        assert frames(server.bytes_to_send()) == [(WINDOW_UPDATE, RST, 2 * n + 1, 0) for n in range(64, 70)]

    def test_a_full_backlog_refuses_until_something_is_accepted(self):
        server = Yamux(False, YamuxLimits(accept_backlog_max=1))
        assert server.receive(frame(WINDOW_UPDATE, SYN, 1, 0) + frame(WINDOW_UPDATE, SYN, 3, 0)) == [Opened(1)]
        server.accept(1)
        assert server.receive(frame(WINDOW_UPDATE, SYN, 5, 0)) == [Opened(5)]

    def test_a_stream_reset_before_it_was_accepted_is_not_accepted(self, server):
        server.receive(frame(WINDOW_UPDATE, SYN, 1, 0) + frame(WINDOW_UPDATE, RST, 1, 0))
        server.accept(1)
        assert not server.is_open(1)
        assert not server.has_to_send

    def test_opening_stops_at_the_peers_unanswered_streams(self):
        client = Yamux(True, YamuxLimits(unacknowledged_max=2))
        client.open(), client.open()
        with pytest.raises(NoStream):
            client.open()

        client.receive(frame(WINDOW_UPDATE, ACK, 1, 0))

        assert client.open() == 5

    def test_refusals_nobody_takes_end_the_session(self, server):
        server.receive(b"".join(frame(WINDOW_UPDATE, SYN, 2 * n + 1, 0) for n in range(64)))
        with pytest.raises(YamuxViolation):
            server.receive(frame(WINDOW_UPDATE, SYN, 1_001, 0) * 5_000)

    def test_a_stream_never_announced_is_dropped_without_a_word(self, client):
        client.reset(client.open())
        assert client.bytes_to_send() == b""


class TestFlowControl:
    def test_no_more_is_taken_than_the_window(self, client):
        stream_id = client.open()
        taken = client.send(stream_id, bytes(300_000))
        client.bytes_to_send()
        assert taken + client.send(stream_id, bytes(300_000)) == INITIAL_WINDOW
        client.bytes_to_send()
        assert client.send(stream_id, b"x") == 0
        assert client.receive(frame(WINDOW_UPDATE, ACK, 1, 10)) == [Writable(1)]
        assert client.send(stream_id, bytes(11)) == 10

    def test_credit_comes_once_half_the_window_was_used(self, server):
        server.receive(data(1, bytes(200_000), SYN))
        server.accept(1)
        server.bytes_to_send()

        assert server.is_open(1)
        server.consume(1, INITIAL_WINDOW // 2 - 1)
        assert not server.has_to_send
        server.consume(1, 1)
        assert frames(server.bytes_to_send()) == [(WINDOW_UPDATE, 0, 1, INITIAL_WINDOW // 2)]

    def test_a_wider_window_is_said_and_takes_just_so_much_more(self, server):
        server.receive(HEADER.pack(0, WINDOW_UPDATE, SYN, 1, 0))
        server.widen(1, 1_000)
        assert HEADER.pack(0, WINDOW_UPDATE, ACK, 1, 1_000) in server.bytes_to_send()
        for size in (INITIAL_WINDOW // 2, INITIAL_WINDOW // 2, 1_000):
            server.receive(HEADER.pack(0, DATA, 0, 1, size) + bytes(size))
        with pytest.raises(YamuxViolation, match="credit for 0"):
            server.receive(HEADER.pack(0, DATA, 0, 1, 1) + b"x")

    def test_of_a_wider_window_credit_comes_once_half_of_that_was_used(self, server):
        server.receive(data(1, bytes(INITIAL_WINDOW), SYN))
        server.widen(1, INITIAL_WINDOW)
        server.bytes_to_send()

        server.consume(1, INITIAL_WINDOW - 1)
        assert not server.has_to_send
        server.consume(1, 1)
        assert frames(server.bytes_to_send()) == [(WINDOW_UPDATE, 0, 1, INITIAL_WINDOW)]

    def test_a_byte_beyond_the_window_ends_the_session(self, server):
        server.receive(data(1, bytes(INITIAL_WINDOW), SYN))
        with pytest.raises(YamuxViolation):
            server.receive(data(1, b"x"))

    def test_a_frame_is_checked_before_its_body_arrives(self, server):
        with pytest.raises(YamuxViolation):
            server.receive(frame(DATA, SYN, 1, INITIAL_WINDOW + 1))

    def test_the_fullest_stream_goes_when_too_much_is_unread(self):
        server = Yamux(False, YamuxLimits(unread_bytes_max=100))
        events = server.receive(data(1, bytes(60), SYN) + data(3, bytes(30), SYN) + data(5, bytes(20), SYN | FIN))

        assert [type(event) for event in events[-2:]] == [WasReset, Finished]
        assert events[-2].stream_id == 1
        assert server.unread_bytes == 50

    def test_half_of_the_room_is_left_for_others_and_nothing_is_taken_when_there_is_none(self):
        client = Yamux(True, YamuxLimits(out_bytes_max=200))
        one, other = client.open(), client.open()
        assert client.send(one, bytes(300)) == 100
        assert client.send(other, bytes(30)) == 30
        assert client.send(one, bytes(200)) == 23
        for _ in range(10):
            client.send(one, bytes(200))
        assert client.send(other, b"x") == 0
        client.bytes_to_send()
        assert client.send(other, bytes(72)) == 72

    def test_more_cannot_be_consumed_than_came(self, server):
        server.receive(data(1, b"abc", SYN))
        with pytest.raises(LocalError):
            server.consume(1, 4)

    def test_credit_never_grows_beyond_what_a_length_can_say(self, client):
        client.open()
        client.receive(frame(WINDOW_UPDATE, 0, 1, 2**32 - 1) * 3)
        assert client.room(1) == LIMITS.out_bytes_max // 2


class TestClosing:
    def test_half_closed_still_receives(self, client, server):
        client.finish(client.open())
        assert server.receive(client.bytes_to_send()) == [Opened(1), Finished(1)]
        server.accept(1)
        server.send(1, b"still here")
        server.finish(1)
        assert client.receive(server.bytes_to_send()) == [Data(1, b"still here"), Finished(1)]
        assert client.send(1, b"x") == 0
        client.consume(1, 10)
        assert client.stream_ids() == server.stream_ids() == ()

    def test_what_comes_after_the_end_resets_the_stream(self, server):
        events = server.receive(data(1, b"end", SYN | FIN) + data(1, b"and more"))
        assert [type(event) for event in events] == [Opened, Data, Finished, WasReset]
        assert server.unread_bytes == 0

    def test_what_came_before_a_reset_stays_counted_until_it_is_consumed(self, server):
        events = server.receive(data(1, b"abc", SYN) + frame(DATA, RST, 1, 2, b"xx") + frame(PING, ACK, 0, 7))
        assert events == [Opened(1), Data(1, b"abc"), WasReset(1, "the peer reset it"), Ponged(7)]
        assert server.unread_bytes == 3
        assert server.send(1, b"too late") == 0
        server.consume(1, 3)
        assert not server.is_open(1)
        assert not server.has_to_send

    def test_a_stream_the_peer_reset_can_be_given_up_without_a_word(self, server):
        server.receive(data(1, b"abc", SYN) + frame(WINDOW_UPDATE, RST, 1, 0))
        server.reset(1)
        assert server.unread_bytes == 0
        assert not server.has_to_send

    def test_frames_for_a_stream_we_reset_are_passed_over(self, server):
        server.receive(data(1, b"abc", SYN))
        server.reset(1)
        assert server.receive(data(1, b"late") + frame(WINDOW_UPDATE, 0, 1, 5) + frame(WINDOW_UPDATE, FIN, 1, 0)) == []

    def test_a_ping_is_answered_with_its_value(self, client, server):
        client.ping(42)
        server.receive(client.bytes_to_send())
        assert client.receive(server.bytes_to_send()) == [Ponged(42)]

    def test_pings_faster_than_they_can_be_answered_end_the_session(self, server):
        with pytest.raises(YamuxViolation):
            server.receive(frame(PING, SYN, 0, 1) * 33)

    def test_going_away_refuses_new_streams_and_keeps_the_old(self, client, server):
        stream_id = client.open()
        server.receive(client.bytes_to_send())
        server.accept(stream_id)
        server.go_away()
        with pytest.raises(NoStream):
            server.open()
        client.open()
        assert server.receive(client.bytes_to_send()) == []
        assert server.send(stream_id, b"last words") == 10
        assert client.receive(server.bytes_to_send())[0] == GoneAway(0)

    @pytest.mark.parametrize(
        "wire", [b"\x01" + bytes(11), frame(4, 0, 0, 0), frame(WINDOW_UPDATE, 0, 0, 5), frame(DATA, 0, 0, 5)]
    )
    def test_what_no_rule_allows_ends_the_session(self, server, wire):
        with pytest.raises(YamuxViolation):
            server.receive(wire)


class TestFrames:
    def test_messages_of_one_turn_share_a_frame(self, client):
        stream_id = client.open()
        for _ in range(3):
            client.send(stream_id, b"abcd")
        assert frames(client.bytes_to_send()) == [(DATA, SYN, 1, 12)]

    def test_a_frame_never_grows_beyond_what_others_accept(self, client):
        stream_id = client.open()
        for _ in range(40):
            client.send(stream_id, bytes(3_000))
        assert [length for *_, length in frames(client.bytes_to_send())] == [65_524, 54_476]

    def test_what_is_sent_in_large_pieces_is_not_copied(self, client):
        stream_id, large = client.open(), bytes(60_000)
        client.send(stream_id, b"before")
        client.send(stream_id, large)
        client.send(stream_id, b"after")
        pieces = client.pieces_to_send()
        assert any(piece is large for piece in pieces)
        assert [length for *_, length in frames(b"".join(pieces))] == [60_006, 5]
        assert not client.has_to_send
        assert client.pieces_to_send() == []

    def test_what_its_owner_may_change_is_copied(self, client, server):
        data = bytearray(b"a" * 60_000)
        client.send(client.open(), data)
        data[:] = b"b" * 60_000
        assert server.receive(client.bytes_to_send())[1:] == [Data(1, b"a" * 60_000)]

    def test_frames_of_two_streams_keep_their_order(self, client, server):
        one, other = client.open(), client.open()
        client.send(one, b"a")
        client.send(other, b"b")
        client.send(one, b"c")
        got = [event for event in server.receive(client.bytes_to_send()) if isinstance(event, Data)]
        assert got == [Data(1, b"a"), Data(3, b"b"), Data(1, b"c")]

    def test_a_memoryview_may_be_sent(self, client, server):
        client.send(client.open(), memoryview(b"view"))
        assert server.receive(client.bytes_to_send()) == [Opened(1), Data(1, b"view")]
