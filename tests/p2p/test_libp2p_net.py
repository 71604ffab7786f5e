"""The libp2p network as a whole: how it opens, closes and reports."""

import gc
import os
import random
import threading
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
import trio
from noise.connection import NoiseConnection
from noise.noise_protocol import NoiseProtocol

from p2p.gossip import MESHSUB
from p2p.gossipsub import Seek
from p2p.hardening import SafeConn
from p2p.inbound import Inbound
from p2p.libp2p_net import CLOSING, Libp2pNet, NetOptions, open_libp2p_net
from p2p.listening import CannotListen, PortInUse
from p2p.muxed import Muxed
from p2p.muxed_stream import MuxedStream
from p2p.net import Answered, Asked, Delivered, NetEvent, PeerConnected, Published, Unanswered
from p2p.peer_ids import to_node, to_peer
from p2p.wire import SocketWire
from p2p.yamux import Yamux
from protocol.errors import LocalError
from protocol.keys import PrivateKey, format_node
from protocol.types import Verdict
from tests.p2p.loopback import run, running_host, until

TOPIC, STREAM = "t", "/s/1"


def accept(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.ACCEPT


def opened(number: int, events: list[NetEvent], port: int = 0) -> Any:
    return open_libp2p_net(bytes([number]) * 32, f"127.0.8.{number}", port, events.append, NetOptions(seed=number))


def test_the_seed_of_the_node_key_is_the_libp2p_identity() -> None:
    async def main() -> bytes:
        async with opened(1, []) as net:
            return bytes(net.node)

    public = PrivateKey.from_seed(bytes([1]) * 32).public
    assert run(main) == public
    assert str(to_peer(public)) == format_node(public)
    assert to_node(to_peer(public)) == public


def test_addresses_are_what_is_really_listened_on() -> None:
    async def main() -> None:
        async with opened(1, []) as net:
            (address,) = net.addresses
            _, family, host, transport, port = address.split("/")
            assert (family, host, transport) == ("ip4", "127.0.8.1", "tcp")
            await trio.aclose_forcefully(await trio.open_tcp_stream(host, int(port)))

    run(main)


def test_a_port_in_use_and_an_address_that_is_not_ours_are_told_apart() -> None:
    async def main() -> None:
        async with opened(1, []) as net:
            port = int(net.addresses[0].rsplit("/", 1)[1])
            with pytest.raises(PortInUse):
                async with opened(1, [], port):
                    pass
        with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
            async with open_libp2p_net(bytes(32), "192.0.2.1", 0, print):
                pass
        # The first has gone; its port is free at once.
        async with opened(1, [], port):
            pass

    run(main)


def test_a_seed_of_another_length_is_the_callers_mistake() -> None:
    async def main() -> None:
        async with open_libp2p_net(b"short", "127.0.8.1", 0, print):
            pass

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(LocalError, match="32 bytes")


def test_who_comes_back_again_and_again_within_seconds_is_blamed_for_nothing() -> None:
    """As the client of a command does that is run in a loop: the same key, another process."""
    topics = [f"t/{number}" for number in range(6)]

    async def main() -> None:
        async with opened(1, []) as server:
            for topic in topics:
                server.subscribe(topic, accept)
            for _ in range(12):
                async with opened(2, []) as client:
                    for topic in topics:
                        client.subscribe(topic, accept)
                    client.learn(server.node, server.addresses)
                    await until(lambda client=client: all(client.subscribers(topic) for topic in topics))  # type: ignore[misc]
                    await until(lambda: all(server.subscribers(topic) for topic in topics))
                    assert not server.faults()
                    for topic in topics:
                        client.unsubscribe(topic)
                    await until(lambda: not any(server.subscribers(topic) for topic in topics))

    run(main)


def test_closing_leaves_no_task_thread_or_descriptor() -> None:
    def count_tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async def main() -> None:
        tasks, threads = count_tasks(), threading.active_count()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            first: list[NetEvent] = []
            async with opened(1, first) as a, opened(2, []) as b:
                a.subscribe(TOPIC, accept)
                b.subscribe(TOPIC, accept)
                b.serve(STREAM)
                a.learn(b.node, b.addresses)
                await until(lambda a=a, b=b: a.subscribers(TOPIC) == (b.node,))  # type: ignore[misc]
                a.publish(TOPIC, b"x", "p")
                a.request(b.node, STREAM, b"q", "r", 60_000)
                assert threading.active_count() <= threads  # one of before may have ended meanwhile
            assert count_tasks() == tasks
            assert len(os.listdir("/proc/self/fd")) == descriptors

    run(main)


def test_closing_ends_every_request_once_also_those_made_while_closing() -> None:
    events: list[NetEvent] = []
    net: Any = None

    def sink(event: NetEvent) -> None:
        events.append(event)
        if isinstance(event, Unanswered) and event.token == "first":
            net.request(bytes(32), STREAM, b"q", "second", 1_000)
            net.publish(TOPIC, b"x", "p")

    async def main() -> None:
        nonlocal net
        async with opened(2, []) as other, open_libp2p_net(bytes([1]) * 32, "127.0.8.1", 0, sink) as net:
            other.serve(STREAM)
            net.learn(other.node, other.addresses)
            net.request(other.node, STREAM, b"q", "first", 60_000)
            await until(lambda: net.peers() == (other.node,))

    run(main)
    ends = [event for event in events if isinstance(event, Answered | Unanswered)]
    assert ends == [Unanswered("first", CLOSING), Unanswered("second", CLOSING)]
    assert Published("p", TOPIC, 0) in events


def test_peers_that_have_left_leave_nothing_for_the_garbage_collector() -> None:
    events: list[NetEvent] = []
    # What a caller has said when it hangs up: nothing, and its ephemeral key, which has been answered.
    half = (b"", b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\x00\x20" + bytes(range(32)))

    async def visit(net: Libp2pNet) -> None:
        async with opened(2, heard := []) as visitor:
            visitor.subscribe(TOPIC, accept)
            visitor.learn(net.node, net.addresses)
            await until(lambda: net.node in visitor.subscribers(TOPIC))
            visitor.publish(TOPIC, b"hello", "p")
            visitor.request(net.node, STREAM, b"hello", "r", 5_000)
            await until(lambda: any(isinstance(event, Answered) for event in heard))
            await until(lambda: any(isinstance(event, Delivered) for event in events))

    async def hang_up(net: Libp2pNet, said: bytes) -> None:
        _, _, host, _, port = net.addresses[0].split("/")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(said)
            await stream.receive_some()

    async def main() -> None:
        def hear(event: NetEvent) -> None:
            events.append(event)
            if isinstance(event, Asked):
                net.reply(event.token, event.data)

        async with open_libp2p_net(bytes([1]) * 32, "127.0.8.1", 0, hear) as net:
            net.subscribe(TOPIC, accept)
            net.serve(STREAM)
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            await visit(net)
            for said in half:
                await hang_up(net, said)
            await until(lambda: not net.sizes()["host.connections"] + net.sizes()["host.half_open"])
            gc.collect()

    gc.disable()
    try:
        run(main)
        left = {type(thing) for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

    assert not left & {Inbound, Muxed, MuxedStream, NoiseConnection, NoiseProtocol, SafeConn, SocketWire, Yamux}


def test_being_cancelled_closes_just_the_same() -> None:
    events: list[NetEvent] = []

    async def main() -> None:
        with trio.move_on_after(0.2):
            async with opened(1, events) as a, opened(2, []) as b:
                b.serve(STREAM)
                a.learn(b.node, b.addresses)
                a.request(b.node, STREAM, bytes(2**20), "r", 60_000)
                await trio.sleep_forever()
        assert trio.lowlevel.current_statistics().tasks_living <= 4

    run(main)
    assert [event.token for event in events if isinstance(event, Unanswered)] == ["r"]


def test_what_the_sink_raises_ends_the_network() -> None:
    async def main() -> None:
        def sink(event: NetEvent) -> None:
            raise LocalError("a bug of ours")

        async with open_libp2p_net(bytes(32), "127.0.8.1", 0, sink) as net:
            net.publish(TOPIC, b"x", "p")
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert caught.group_contains(LocalError, match="a bug of ours")


def test_no_event_reaches_the_sink_from_within_a_call() -> None:
    events: list[NetEvent] = []

    async def main() -> None:
        async with opened(1, events) as net:
            net.publish(TOPIC, b"x", "p")
            net.request(bytes(32), STREAM, b"", "r", 1_000)
            assert events == []
            await until(lambda: len(events) == 2)

    run(main)
    assert events[0] == Published("p", TOPIC, 0)


def test_counters_tell_what_went_through_each_topic() -> None:
    events: list[NetEvent] = []

    async def main() -> tuple[Any, Any]:
        async with opened(1, []) as a, opened(2, events) as b:
            b.subscribe(TOPIC, lambda topic, data, forwarder: Verdict(data.decode()))
            a.learn(b.node, b.addresses)
            await until(lambda: a.subscribers(TOPIC) == (b.node,))
            for data in (b"accept", b"ignore", b"reject"):
                a.publish(TOPIC, data, "")
            await until(lambda: b.counters().get(TOPIC, {}).get("received") == 3)
            await until(lambda: any(isinstance(event, Delivered) for event in events))
            return a.counters()[TOPIC], b.counters()[TOPIC]

    sent, got = run(main)
    assert (sent["published"], sent["received"]) == (3, 0)
    assert sent["bytes_sent"] > 18
    assert {name: got[name] for name in ("received", "delivered", "ignored", "rejected", "duplicates")} == {
        "received": 3,
        "delivered": 1,
        "ignored": 1,
        "rejected": 1,
        "duplicates": 0,
    }
    assert got["bytes_received"] == 18


def test_a_burst_of_a_thousand_arrives_whole() -> None:
    events: list[NetEvent] = []

    async def main() -> None:
        async with opened(1, []) as a, opened(2, events) as b:
            b.subscribe(TOPIC, accept)
            a.learn(b.node, b.addresses)
            await until(lambda: a.subscribers(TOPIC) == (b.node,))
            for i in range(1_000):
                a.publish(TOPIC, b"%d" % i, "")
            await until(lambda: sum(isinstance(event, Delivered) for event in events) == 1_000)
            assert a.counters()[TOPIC]["dropped"] == 0

    run(main)


def test_a_slow_peer_costs_messages_that_are_counted_and_nobody_else() -> None:
    """The peer takes the stream and never reads: what waits for it is bounded, others are served."""
    events: list[NetEvent] = []

    async def main() -> None:
        async with opened(1, []) as a, opened(2, events) as b, running_host(3) as (deaf, _):

            async def stop_reading(stream: Any) -> None:
                await trio.sleep_forever()

            deaf.serve(MESHSUB, stop_reading)
            b.subscribe(TOPIC, accept)
            a.learn(b.node, b.addresses)
            assert await deaf.dial(a.node, a.addresses)
            stream = await deaf.open_stream(a.node, MESHSUB)
            await stream.write(b"\x07\x0a\x05\x08\x01\x12\x01t")  # subscribe to "t"
            await until(lambda: a.subscribers(TOPIC) == tuple(sorted((b.node, deaf.node))))
            data = random.Random(1).randbytes(60_000)
            for i in range(120):
                a.publish(TOPIC, b"%03d" % i + data, "")
                await until(lambda i=i: sum(isinstance(event, Delivered) for event in events) == i + 1)  # type: ignore[misc]
            assert a.counters()[TOPIC]["dropped"] > 0

    run(main)


def test_a_peer_that_takes_no_bytes_does_not_hold_up_closing() -> None:
    """As a paused process: its kernel takes what fits its buffers, then nothing."""
    protocols = [f"/s{i}/1" for i in range(40)]
    served: list[Any] = []

    async def main() -> float:
        async def hold(stream: Any) -> None:
            served.append(stream)
            await trio.sleep_forever()

        async with running_host(3) as (paused, _):
            async with opened(1, []) as a:
                for protocol in protocols:
                    paused.serve(protocol, hold)
                assert await paused.dial(a.node, a.addresses)
                for protocol in protocols:
                    a.request(paused.node, protocol, b"", f"open {protocol}", 60_000)
                await until(lambda: len(served) == len(protocols))
                (conns,) = cast(Any, paused.swarm.connections.values())
                conns[0].muxed_conn._writer.wire.receive = trio.sleep_forever
                for protocol in protocols:
                    a.request(paused.node, protocol, bytes(2**20), f"fill {protocol}", 60_000)
                (ours,) = cast(Any, a._host.swarm.connections.values())
                muxed = ours[0].muxed_conn
                await until(lambda: muxed._writer._unsent and len(muxed._writer._feeding) > len(protocols) // 4)
                start = trio.current_time()
            return trio.current_time() - start

    assert run(main) < 2


def test_a_request_goes_back_over_the_connection_of_a_peer_whose_address_is_not_known() -> None:
    first: list[NetEvent] = []
    second: list[NetEvent] = []

    async def main() -> None:
        async with opened(1, first) as a, opened(2, second) as b:
            b.learn(a.node, a.addresses)
            await until(lambda: a.peers() == (b.node,))
            b.serve(STREAM)
            a.request(b.node, STREAM, b"back", "r", 5_000)
            await until(lambda: any(isinstance(event, Asked) for event in second))
            b.reply(next(event.token for event in second if isinstance(event, Asked)), b"there")
            await until(lambda: Answered("r", b"there") in first)

    run(main)
    assert PeerConnected(PrivateKey.from_seed(bytes([2]) * 32).public) in first


def test_a_publish_that_reached_nobody_has_peers_of_that_topic_sought() -> None:
    async def main() -> None:
        events: list[NetEvent] = []
        async with opened(1, events) as net, opened(2, []) as other:
            other.subscribe(TOPIC, accept)
            net.publish(TOPIC, b"to nobody", "1")
            await until(lambda: Published("1", TOPIC, 0) in events)
            assert TOPIC in net._keeper.book.sought
            net._keeper.book.sought.clear()
            net.learn(other.node, other.addresses)
            await until(lambda: net.subscribers(TOPIC) == (other.node,))
            net.publish(TOPIC, b"to one", "2")
            await until(lambda: Published("2", TOPIC, 1) in events)
            assert net._keeper.book.sought == {}

    run(main)


def test_what_an_advert_says_a_peer_listens_to_is_remembered_until_the_peer_says_it_itself() -> None:
    async def main() -> None:
        async with opened(1, []) as net, opened(2, []) as other:
            nobody = bytes([9]) * 32
            net.learn(nobody, ("/ip4/127.0.8.9/tcp/9",), (TOPIC,))
            assert net._keeper.book.entries[nobody].topics == (TOPIC,)
            net.learn(other.node, other.addresses)
            await until(lambda: net.peers() == (other.node,))
            net.learn(other.node, other.addresses, ("what it is not on",))
            assert net._keeper.book.entries[other.node].topics == ()

    run(main)


def test_of_full_inbound_connections_we_still_dial_some_of_our_own_choosing() -> None:
    async def main() -> None:
        async with opened(1, []) as net, opened(2, []) as wanted:
            callers = [(bytes([20 + number]) * 32, f"127.0.{60 + number}.1") for number in range(20)]
            async with AsyncExitStack() as stack:
                for seed, address in callers:
                    caller = await stack.enter_async_context(running_host(seed[0], address=address))
                    assert await caller[0].dial(net.node, net.addresses)
                await until(lambda: len(net.peers()) == 20)
                for number in range(50):  # a book too large to be dialled whole, of peers that are not there
                    net.learn(number.to_bytes(32, "big"), (f"/ip4/127.0.9.9/tcp/{number + 1}",))
                net.learn(wanted.node, wanted.addresses)
                await until(lambda: wanted.node in net.peers())

    run(main)


def test_a_router_that_was_turned_away_has_one_more_peer_dialled() -> None:
    async def main() -> None:
        async with opened(1, []) as net, opened(2, []) as wanted:
            for number in range(50):  # a book too large to be dialled whole, of peers that are not there
                net.learn(number.to_bytes(32, "big"), (f"/ip4/127.0.9.9/tcp/{number + 1}",))
            book = net._keeper.book
            net._keeper._wake.set()
            net._gossip._handlers[Seek](Seek(TOPIC))
            assert book.wants_more
            net.learn(wanted.node, wanted.addresses)
            await until(lambda: not book.wants_more)

    run(main)
