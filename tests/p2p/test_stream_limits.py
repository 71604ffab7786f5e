"""How many streams a peer may have, and how fast it may open them: pure, and on real sockets."""

from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.host import Host
from p2p.stream_limits import BURST, OPEN_MAX, PEERS_MAX, PER_S, StreamLimits
from tests.p2p.loopback import join, run, running_host, until

PEER, OTHER = bytes(32), b"o" * 32


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5)), max_size=300))
def test_streams_are_opened_no_faster_than_allowed_and_each_peer_for_itself(steps: list[tuple[int, float]]) -> None:
    limits, now_s, allowed = StreamLimits(), 0.0, dict.fromkeys(range(4), 0)
    for peer, wait_s in steps:
        now_s += wait_s
        allowed[peer] += not limits.is_too_fast(key(peer), now_s)
        assert allowed[peer] <= BURST + PER_S * now_s + 1
    assert not limits.is_too_fast(key(9), now_s)


def test_a_peer_may_open_streams_at_the_steady_rate_for_ever() -> None:
    limits = StreamLimits()
    assert not any(limits.is_too_fast(PEER, number / PER_S) for number in range(int(10 * BURST)))


def test_a_long_silence_saves_up_one_burst_and_no_more() -> None:
    limits = StreamLimits()
    limits.is_too_fast(PEER, 0.0)
    allowed = sum(not limits.is_too_fast(PEER, 1e6) for _ in range(int(10 * BURST)))
    assert allowed == BURST


def test_rates_are_remembered_of_so_many_peers_and_the_longest_silent_goes() -> None:
    limits = StreamLimits()
    for _ in range(int(BURST)):
        limits.is_too_fast(key(0), 0.0)
    for number in range(1, PEERS_MAX):
        limits.is_too_fast(key(number), 0.0)
    assert limits.is_too_fast(key(0), 0.0)
    for number in range(PEERS_MAX, 2 * PEERS_MAX):
        limits.is_too_fast(key(number), 0.0)
    assert limits.get_sizes()["stream_buckets"] == PEERS_MAX
    assert not limits.is_too_fast(key(0), 0.0), "forgotten: it begins anew"


def test_each_peer_has_its_share_of_each_protocol_and_gets_it_back() -> None:
    limits = StreamLimits()
    assert [limits.begin(PEER, "a") for _ in range(OPEN_MAX + 1)] == [True] * OPEN_MAX + [False]
    assert limits.begin(PEER, "b"), "another protocol"
    assert limits.begin(OTHER, "a"), "another peer"
    limits.end(PEER, "a")
    assert limits.begin(PEER, "a")
    for node, protocol, count in ((PEER, "a", OPEN_MAX), (PEER, "b", 1), (OTHER, "a", 1)):
        for _ in range(count):
            limits.end(node, protocol)
    assert limits.get_sizes()["streams"] == 0


def test_streams_that_ended_make_room_for_others() -> None:
    async def main() -> None:
        async with running_host(1) as (server, log), running_host(2) as (client, _):
            served: list[Any] = []

            async def answer(stream: Any) -> None:
                served.append(stream)
                await stream.close()

            server.serve("/once/1", answer)
            await join(client, server)
            for number in range(3 * OPEN_MAX):
                assert await is_ended(client, server)
                await until(lambda number=number: len(served) == number + 1)  # type: ignore[misc]
            assert log.faults == []

    async def is_ended(client: Host, server: Host) -> bool:
        stream = await client.open_stream(server.node, "/once/1")
        try:
            return bool(await stream.read(1) == b"")
        except Exception:  # whichever way stock says that it is over
            return True
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()

    run(main)
