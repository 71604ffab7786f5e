"""Reachability: what follows from peers' answers (pure), and dialling back on real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p import dialback
from p2p.dialback import DialBack, probe
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import NetEvent, Reachable
from p2p.reach import (
    AGAIN_S,
    CONFIRMATIONS,
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    Dialled,
    Reach,
    Reachability,
)
from protocol.codec import encode
from tests.p2p.loopback import join, run, running_host, until

HERE = ("/ip4/192.0.2.7/tcp/4001",)
YES, NO, BUSY = Dialled("192.0.2.7", ("",)), Dialled("192.0.2.7", ("no answer",)), Dialled("192.0.2.7", ())


def key(number: int) -> bytes:
    return bytes([number]) * 32


PEERS = tuple(key(number) for number in range(1, 9))


def test_one_peer_that_got_through_is_enough_whatever_others_say() -> None:
    reach = Reachability(HERE)
    for answer in (None, NO, BUSY, NO):
        peer, _ = reach.choose(PEERS, 0.0)
        assert peer is not None
        reach.note(peer, answer, 0.0)
        assert reach.state is Reach.UNKNOWN
    peer, _ = reach.choose(PEERS, 0.0)
    assert peer == PEERS[4], "nobody is asked twice"
    reach.note(PEERS[4], YES, 0.0)
    assert (reach.state, reach.advice) == (Reach.REACHABLE, "")
    assert reach.choose(PEERS, AGAIN_S - 1) == (None, AGAIN_S)
    assert reach.choose(PEERS, AGAIN_S)[0] == PEERS[0]


def test_when_nobody_gets_through_the_node_says_what_to_do_and_asks_again_later_and_later() -> None:
    reach, now_s, pauses = Reachability(HERE), 0.0, []
    for _ in range(9):
        for _ in range(CONFIRMATIONS):
            peer, _ = reach.choose(PEERS, now_s)
            assert peer is not None
            reach.note(peer, NO, now_s)
        assert reach.state is Reach.UNREACHABLE
        none, again_s = reach.choose(PEERS, now_s)
        assert none is None
        pauses.append(again_s - now_s)
        now_s = again_s
    assert (pauses[0], pauses[1], pauses[-1]) == (PAUSE_S_MIN, 2 * PAUSE_S_MIN, PAUSE_S_MAX)
    for word in (HERE[0], "192.0.2.7", "4001", "--announce"):
        assert word in reach.advice


def test_of_few_peers_all_are_believed_and_of_none_nothing_is() -> None:
    reach = Reachability(HERE)
    assert reach.choose((), 0.0) == (None, 1.0)
    assert reach.choose(PEERS[:1], 1.0)[0] == PEERS[0]
    reach.note(PEERS[0], NO, 1.0)
    assert reach.state is Reach.UNKNOWN
    reach.choose(PEERS[:1], 1.0)
    assert reach.state is Reach.UNREACHABLE


@given(st.lists(st.tuples(st.sampled_from([None, YES, NO, BUSY]), st.integers(0, 8), st.integers(0, 900)), max_size=60))
def test_looking_again_is_never_in_the_past_and_silence_proves_nothing(
    steps: list[tuple[Dialled | None, int, int]],
) -> None:
    reach, now_s = Reachability(HERE), 0.0
    for answer, count, wait_s in steps:
        now_s += wait_s
        peer, again_s = reach.choose(PEERS[:count], now_s)
        assert again_s >= now_s
        if peer is None:
            assert again_s > now_s
        else:
            reach.note(peer, answer, now_s)
    if not any(answer in (YES, NO) for answer, _, _ in steps):
        assert reach.state is Reach.UNKNOWN


@asynccontextmanager
async def node(number: int, events: list[NetEvent], options: NetOptions) -> AsyncIterator[Libp2pNet]:
    async with open_libp2p_net(key(number), f"127.0.50.{number}", 0, events.append, options) as net:
        yield net


def test_a_node_that_can_be_dialled_learns_it_from_a_peer() -> None:
    async def main() -> None:
        events: list[NetEvent] = []
        async with node(1, events, NetOptions(dial_back=True)) as net, node(2, [], NetOptions()) as helper:
            net.learn(helper.node, helper.addresses)
            await until(lambda: Reachable(True, "") in events)
            assert net.peers() == (helper.node,), "the dial back leaves the connection alone"

    run(main)


def test_a_node_that_announces_where_it_is_not_hears_what_to_do() -> None:
    async def main() -> None:
        events: list[NetEvent] = []
        options = NetOptions(dial_back=True, announce=("/ip4/127.0.50.1/tcp/1",))
        async with node(1, events, options) as net, node(2, [], NetOptions()) as helper:
            net.learn(helper.node, helper.addresses)
            await until(lambda: any(isinstance(event, Reachable) for event in events))
            (told,) = [event for event in events if isinstance(event, Reachable)]
            assert not told.is_reachable
            assert "/ip4/127.0.50.1/tcp/1" in told.advice
            assert net.reach.state is Reach.UNREACHABLE

    run(main)


def test_nobody_is_made_to_dial_others_nor_to_dial_often() -> None:
    async def main() -> None:
        async with (
            running_host(1, address="127.0.50.1") as (asker, _),
            running_host(2, address="127.0.50.2") as (helper, _),
            running_host(3, address="127.0.50.3") as (victim, victim_log),
        ):
            helper.serve(dialback.PROTOCOL, DialBack(helper, (), lambda: None).take_stream)
            await join(asker, helper)
            asking = DialBack(asker, (*victim.addresses, *asker.addresses), lambda: None)
            assert await asking._ask(helper.node) == Dialled(
                "127.0.50.1", ("not dialled: you call from 127.0.50.1", "")
            )
            assert await asking._ask(helper.node) == Dialled("127.0.50.1", ())
            assert victim_log.ups == []

    run(main)


def test_while_it_dials_back_for_enough_others_a_node_tells_the_next_that_it_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        async with running_host(1, address="127.0.50.1") as (asker, _), running_host(2) as (helper, _):
            serving = DialBack(helper, (), lambda: None)
            helper.serve(dialback.PROTOCOL, serving.take_stream)
            await join(asker, helper)
            asking = DialBack(asker, asker.addresses, lambda: None)
            monkeypatch.setattr(dialback, "AT_ONCE_MAX", 0)
            assert await asking._ask(helper.node) == Dialled("127.0.50.1", ())
            monkeypatch.setattr(dialback, "AT_ONCE_MAX", 1)
            assert await asking._ask(helper.node) == Dialled("127.0.50.1", ("",))

    run(main)


def test_another_node_at_the_address_and_nobody_at_all_are_told_apart() -> None:
    async def main() -> None:
        async with running_host(1) as (one, _), running_host(2) as (two, log), running_host(3) as (three, _):
            assert await probe(one, two.node, "127.0.8.2", two.port) == ""
            assert (await probe(one, three.node, "127.0.8.2", two.port)).startswith(("no handshake", "another node"))
            assert (await probe(one, two.node, "127.0.8.2", 1)).startswith("cannot be connected to")
            assert log.ups == []

    run(main)


def test_junk_on_the_stream_costs_the_stream_alone() -> None:
    async def main() -> None:
        async with running_host(1) as (asker, _), running_host(2) as (helper, log):
            helper.serve(dialback.PROTOCOL, DialBack(helper, (), lambda: None).take_stream)
            await join(asker, helper)
            for junk in (b"\xff\xff" + bytes(9), b"\x00\xff" + encode(YES), b"\x00\x02\xc1\xc1"):
                stream = await asker.open_stream(helper.node, dialback.PROTOCOL)
                await stream.write(junk)
                await stream.close()
            await until(lambda: len(log.faults) == 1)
            assert "MalformedMessage" in log.faults[0][1]
            assert helper.peers() == (asker.node,)

    run(main)


def test_who_asks_and_says_nothing_and_who_is_asked_and_says_nothing_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialback, "READ_S", 0.1)
    monkeypatch.setattr(dialback, "ANSWER_S", 0.1)

    async def main() -> None:
        async with running_host(1) as (mute, _), running_host(2) as (helper, log):
            helper.serve(dialback.PROTOCOL, DialBack(helper, (), lambda: None).take_stream)
            mute.serve(dialback.PROTOCOL, say_nothing)
            await join(mute, helper)
            await mute.open_stream(helper.node, dialback.PROTOCOL)
            await until(lambda: len(log.faults) == 1)
            assert "TooSlow" in log.faults[0][1]
            with trio.fail_after(5):
                assert await DialBack(helper, HERE, lambda: None)._ask(mute.node) is None

    async def say_nothing(stream: Any) -> None:
        await trio.sleep_forever()

    run(main)
