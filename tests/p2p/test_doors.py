"""The doors, pure and on real sockets: caps in total, per address, per block, and the room that is kept."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.addresses import Trusted, compute_block, compute_place, parse_ip
from p2p.doors import Doors, Held, HostLimits
from p2p.host import Host
from p2p.host_streams import StreamRefused
from p2p.stream_limits import OPEN_MAX
from tests.p2p.loopback import join, run, running_host, until

LIMITS = HostLimits(connections_max=16, per_address_max=3, per_block_max=5, outbound_reserved=4, known_reserved=4)
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1", "2001:db8::1", "2001:db8::2"])


@given(st.lists(st.tuples(ADDRESSES, st.booleans()), max_size=60))
def test_no_sequence_of_callers_passes_a_cap(callers: list[tuple[str, bool]]) -> None:
    doors = Doors(LIMITS)
    held: list[Held] = []
    for address, is_known in callers:
        if doors.check_knock(address, held) or (not is_known and doors.check_stranger(held)):
            continue
        held.append(Held(address, True, is_known))
    assert len(held) <= 12, "four are left for peers we dial"
    assert sum(not guest.is_known for guest in held) <= 8, "four more for those we know"
    for guest in held:
        assert sum(other.address == guest.address for other in held) <= 3
        assert sum(compute_block(other.address) == compute_block(guest.address) for other in held) <= 5


def test_handshakes_under_way_count_too() -> None:
    doors = Doors(LIMITS)
    for _ in range(3):
        assert doors.check_knock("10.0.0.1", []) == ""
        doors.begin("10.0.0.1")
    assert doors.check_knock("10.0.0.1", []) == "address"
    doors.end("10.0.0.1")
    assert doors.check_knock("10.0.0.1", []) == ""


def test_trusted_addresses_are_counted_in_total_alone() -> None:
    doors = Doors(HostLimits(connections_max=16, per_address_max=1, per_block_max=1, trusted=("10.0.0.0/24", "::1")))
    held = [Held("10.0.0.1", True, False)] * 11
    assert doors.check_knock("10.0.0.1", held) == ""
    assert doors.check_knock("10.0.0.1", held + held[:1]) == "full"
    assert Trusted(("10.0.0.0/24",)).covers("::ffff:10.0.0.9")
    assert not Trusted(("10.0.0.0/24",)).covers("")


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert (parse_ip(text) is None) == (compute_place(text) == "") == (compute_block(text) == "")


@asynccontextmanager
async def guests(*addresses: str) -> AsyncIterator[list[Host]]:
    async with AsyncExitStack() as stack:
        yield [
            (await stack.enter_async_context(running_host(10 + number, address=address)))[0]
            for number, address in enumerate(addresses)
        ]


def test_one_block_holds_only_so_many_connections_and_others_still_come_in() -> None:
    async def main() -> None:
        limits = HostLimits(per_block_max=2)
        async with (
            running_host(1, limits) as (server, _),
            guests("127.0.20.1", "127.0.20.2", "127.0.20.3", "127.0.21.1") as (first, second, third, other),
        ):
            await join(first, server)
            await join(second, server)
            assert not await third.dial(server.node, server.addresses)
            assert server.doors.refused["block"] == 1
            await join(other, server)

    run(main)


def test_strangers_leave_room_for_known_peers_and_for_our_own_dials() -> None:
    async def main() -> None:
        limits = HostLimits(connections_max=8, outbound_reserved=2, known_reserved=2)
        places = [f"127.0.{30 + number}.1" for number in range(8)]
        async with running_host(1, limits) as (server, log), guests(*places) as hosts:
            friend, late, wanted = hosts[5:]
            server.guard(lambda address: "", lambda node, address: "", lambda node: node == friend.node, print)
            for host in hosts[:4]:
                await join(host, server)
            await hosts[4].dial(server.node, server.addresses)
            await until(lambda: server.doors.refused["strangers"] >= 1)
            await join(friend, server)
            assert not server.is_connected(hosts[4].node)
            assert hosts[4].node not in log.ups, "whom the doors refuse was never connected"
            await join(server, wanted)
            await late.dial(server.node, server.addresses)
            await until(lambda: server.doors.refused["strangers"] >= 2)
            assert len(server.peers()) == 6

    run(main)


def test_whoever_is_refused_by_address_gets_no_handshake() -> None:
    async def main() -> None:
        async with running_host(1) as (server, log), guests("127.0.20.1", "127.0.21.1") as (banned, other):
            server.guard(
                lambda address: "banned" * (address == "127.0.20.1"),
                lambda node, address: "",
                lambda node: False,
                print,
            )
            assert not await banned.dial(server.node, server.addresses)
            assert server.doors.refused == {"banned": 1}
            await join(other, server)
            assert log.ups == [other.node]

    run(main)


def test_a_thousand_half_open_connections_of_one_address_keep_no_honest_peer_out() -> None:
    async def main() -> None:
        async with running_host(1) as (server, _), guests("127.0.22.1") as (honest,):
            sockets = []
            for _ in range(1_000):
                stream = await trio.open_tcp_stream("127.0.8.1", server.port, local_address="127.0.23.1")
                sockets.append(stream)
            assert server.doors.half_open["127.0.23.1"] <= server.limits.per_address_max
            with trio.fail_after(2):
                assert await honest.dial(server.node, server.addresses)
            for stream in sockets:
                await trio.aclose_forcefully(stream)

    run(main)


def test_a_peer_with_its_share_of_streams_open_gets_no_more_and_one_that_floods_is_at_fault() -> None:
    async def main() -> None:
        async with running_host(1) as (server, log), running_host(2) as (client, _):
            served = []

            async def hold(stream: Any) -> None:
                served.append(stream)
                await trio.sleep_forever()

            server.serve("/hold/1", hold)
            await join(client, server)
            for _ in range(OPEN_MAX):
                await client.open_stream(server.node, "/hold/1")
            await until(lambda: len(served) == OPEN_MAX)
            assert await is_reset(await client.open_stream(server.node, "/hold/1"))
            assert (len(served), log.faults) == (OPEN_MAX, [])
            while not log.faults:
                with contextlib.suppress(StreamRefused):
                    assert await is_reset(await client.open_stream(server.node, "/hold/1"))
            assert "StreamsTooFast" in log.faults[0][1]
            assert len(served) == OPEN_MAX

    async def is_reset(stream: Any) -> bool:
        try:
            return bool(await stream.read(1) == b"")
        except Exception:  # whichever way stock says "reset"
            return True

    run(main)


def test_our_own_dials_stop_at_the_cap_too() -> None:
    async def main() -> None:
        limits = HostLimits(connections_max=4)
        async with running_host(1, limits) as (server, _), guests(*(f"127.0.{30 + n}.1" for n in range(5))) as hosts:
            for host in hosts[:4]:
                await join(server, host)
            assert not await server.dial(hosts[4].node, hosts[4].addresses)
            assert len(server.peers()) == 4

    run(main)


def test_a_caller_that_never_finishes_its_handshake_is_put_out_by_its_deadline() -> None:
    async def main() -> None:
        async with running_host(1, HostLimits(handshake_s=0.3)) as (server, log):
            stream = await trio.open_tcp_stream("127.0.8.1", server.port, local_address="127.0.24.1")
            await until(lambda: server.doors.half_open.total() == 1)
            await until(lambda: server.doors.half_open.total() == 0)
            with trio.fail_after(5):
                while await stream.receive_some():  # until it is closed on the other side
                    pass
            assert log.ups == []

    run(main)


def test_of_ipv6_a_block_is_what_one_home_has() -> None:
    doors = Doors(HostLimits(per_block_max=2))
    neighbours = [Held("2001:db8:1:2::1", True, False), Held("2001:db8:1:2:ffff::1", True, False)]

    assert doors.check_knock("2001:db8:1:2:3::4", neighbours) == "block"
    assert doors.check_knock("2001:db8:1:3::4", neighbours) == ""


def test_of_handshakes_only_so_many_are_under_way_wherever_they_come_from() -> None:
    doors = Doors(HostLimits(half_open_max=4))
    callers = [f"198.51.{number}.1" for number in range(4)]
    for caller in callers:
        assert doors.check_knock(caller, ()) == ""
        doors.begin(caller)

    assert doors.check_knock("192.0.2.1", ()) == "half_open"
    doors.end(callers[0])
    assert doors.check_knock("192.0.2.1", ()) == ""


def test_connections_of_our_own_making_count_towards_the_whole() -> None:
    doors = Doors(HostLimits(connections_max=16))
    outbound = [Held(f"198.51.{number}.1", False, True) for number in range(16)]

    assert doors.check_knock("192.0.2.1", outbound) == "full"
    assert doors.check_knock("192.0.2.1", outbound[1:]) == ""


def test_of_few_connections_half_are_open_to_strangers_whatever_is_reserved() -> None:
    doors = Doors(HostLimits(connections_max=8, outbound_reserved=16, known_reserved=16))
    strangers = [Held(f"198.51.{number}.1", True, False) for number in range(8)]
    known = [Held(f"203.0.{number}.1", True, True) for number in range(2)]

    assert doors.check_stranger(strangers[:3]) == ""
    assert doors.check_stranger(strangers[:4]) == "strangers"
    assert doors.check_knock("192.0.2.1", [*strangers[:4], *known[:1]]) == ""
    assert doors.check_knock("192.0.2.1", [*strangers[:4], *known]) == "full"


def test_a_stranger_has_seconds_for_its_handshake() -> None:
    limits = HostLimits()
    assert (limits.handshake_s, limits.dial_s) == (3.0, 3.0)


def test_a_dial_to_who_says_nothing_is_given_up() -> None:
    async def main() -> None:
        (mute,) = await trio.open_tcp_listeners(0, host="127.0.25.1")
        port = mute.socket.getsockname()[1]
        async with mute, running_host(1, HostLimits(dial_s=0.2)) as (host, _):
            with trio.fail_after(5):
                assert not await host.dial(bytes(32), [f"/ip4/127.0.25.1/tcp/{port}"])

    run(main)


def test_whom_there_is_no_room_for_has_done_nothing_wrong_and_a_broken_handshake_has() -> None:
    async def main() -> None:
        limits = HostLimits(connections_max=4, handshake_s=0.3)
        async with running_host(1, limits) as (server, _), guests("127.0.20.1", "127.0.21.1", "127.0.22.1") as hosts:
            botched: list[str] = []
            server.guard(lambda address: "", lambda node, address: "", lambda node: False, botched.append)
            await join(hosts[0], server)
            await join(hosts[1], server)
            await hosts[2].dial(server.node, server.addresses)
            await until(lambda: server.doors.refused["strangers"] == 1)
            stream = await trio.open_tcp_stream("127.0.8.1", server.port, local_address="127.0.26.1")
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: botched == ["127.0.26.1"])
            await trio.aclose_forcefully(stream)

    run(main)
