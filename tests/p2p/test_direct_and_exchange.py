"""Peers whose operators agreed, and peers that good peers tell us of: on real sockets, and what strangers may not."""

import random
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.envelope import seal_record
from libp2p.peer.id import ID
from libp2p.peer.peer_record import PeerRecord
from multiaddr import Multiaddr

from p2p.gossipsub.signing import ED25519_HEAD
from p2p.gossipsub.wire import Prune, wrap_control, write_prune
from p2p.identify import fetch_record, find_record
from p2p.keeper import ALL_UP_TO, BOOK_MAX, FORGET_S, AddressBook
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import Delivered
from p2p.peer_ids import to_node
from p2p.peer_records import RECORD_BYTES_MAX, read_record
from p2p.protobuf import write_varint
from protocol.errors import BadSignature, RemoteError
from protocol.keys import PrivateKey
from protocol.types import Verdict
from tests.p2p.loopback import run, running_host, until

TOPIC = "/rolemesh/00/claims/1"
ADDRESSES = ("/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4002")


def seal(number=1, addresses=ADDRESSES, about=None):
    """A record as py-libp2p writes it."""
    keys = create_new_key_pair(bytes([number]) * 32)
    peer = ID.from_pubkey((about or keys).public_key)
    return seal_record(
        PeerRecord(peer, [Multiaddr(text) for text in addresses], 7), keys.private_key
    ).marshal_envelope()


def get_node(number):
    return PrivateKey(bytes([number]) * 32).public


# Records


def test_a_record_of_another_implementation_is_read():
    assert read_record(seal()) == (get_node(1), ADDRESSES)


def test_addresses_we_cannot_dial_are_left_out():
    found = read_record(seal(addresses=("/ip4/192.0.2.7/udp/4001", "/dns4/example.org/tcp/1", *ADDRESSES)))

    assert found == (get_node(1), ADDRESSES)


def test_a_record_about_somebody_else_or_changed_on_the_way_is_refused():
    with pytest.raises(BadSignature):
        read_record(seal(about=create_new_key_pair(b"\x02" * 32)))
    good = seal()
    refused = 0
    for at in range(len(good)):
        damaged = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        try:
            assert read_record(damaged) == (get_node(1), ADDRESSES)  # in a field that says nothing
        except RemoteError:
            refused += 1
    assert refused > len(good) * 9 // 10


@given(st.binary(max_size=300))
def test_whatever_comes_as_a_record_costs_no_more_than_our_own_error(data):
    with pytest.raises(RemoteError):
        read_record(data)
    assert find_record(data, get_node(1)) == b""


def test_a_record_is_bounded():
    with pytest.raises(RemoteError, match="at most"):
        read_record(bytes(RECORD_BYTES_MAX + 1))


# Direct peers


def make_book(count, always=frozenset()):
    book = AddressBook(get_node(200), random.Random(1), always=always)
    for number in range(count):
        book.learn(bytes([number // 256, number % 256]) * 16, (f"/ip4/192.0.2.7/tcp/{1_000 + number}",), 0.0)
    return book


def test_a_direct_peer_is_dialled_first_however_many_others_are_connected():
    direct = get_node(3)
    book = make_book(100, frozenset((direct,)))
    book.learn(direct, ADDRESSES, 0.0)
    connected = frozenset(list(book.entries)[:60])

    now, _ = book.choose(connected, frozenset(), 10.0)

    assert now[0] == direct
    assert make_book(ALL_UP_TO + 60).choose(connected, frozenset(), 10.0)[0] == []


def test_a_direct_peer_is_never_forgotten_or_crowded_out():
    direct = get_node(3)
    book = make_book(0, frozenset((direct,)))
    book.learn(direct, ADDRESSES, -1.0)
    for number in range(BOOK_MAX + 10):
        book.learn(number.to_bytes(32, "big"), ADDRESSES, float(number))
    assert direct in book.entries
    assert len(book.entries) == BOOK_MAX

    book.note_failed(direct, 2 * FORGET_S)

    assert direct in book.entries


@asynccontextmanager
async def open_nets(*options):
    """One net per options, on one topic, nobody told of anybody."""
    async with AsyncExitStack() as stack:
        nets, heard = [], []
        for number, each in enumerate(options, 1):
            events = []
            net = await stack.enter_async_context(
                open_libp2p_net(bytes([number]) * 32, f"127.0.8.{number}", 47_100 + number, events.append, each)
            )
            net.subscribe(TOPIC, lambda topic, data, forwarder: Verdict.ACCEPT)
            nets.append(net)
            heard.append(events)
        yield nets, heard


def address(number):
    return (f"/ip4/127.0.8.{number}/tcp/{47_100 + number}",)


def test_direct_peers_find_each_other_hear_everything_and_stay_outside_the_mesh():
    async def main():
        first = NetOptions(direct={get_node(2): address(2)})
        second = NetOptions(direct={get_node(1): address(1)})
        async with open_nets(first, second) as ((a, b), (_, heard)):
            await until(lambda: b.node in a.subscribers(TOPIC) and a.node in b.subscribers(TOPIC))
            a.publish(TOPIC, b"for b", "1")
            await until(lambda: any(isinstance(event, Delivered) for event in heard))
            assert a._gossip.router.get_mesh(TOPIC) == b._gossip.router.get_mesh(TOPIC) == ()

            for _ in range(30):
                a.penalise(b.node, "whatever it does")
            assert not a.guard.is_refused(b.node)
            assert a.guard.is_known(b.node)
            await a._host.hang_up(b.node)
            await until(lambda: b.node not in a.peers())
            await until(lambda: b.node in a.peers())

    run(main)


# Peer exchange


def test_identify_gives_the_record_with_what_we_announce():
    async def main():
        options = NetOptions(announce=("/ip4/192.0.2.9/tcp/4009",))
        async with open_nets(options) as ((net,), _), running_host(7) as (host, _):
            assert await host.dial(net.node, net.addresses)
            record = await fetch_record(host, net.node)
            assert read_record(record) == (net.node, ("/ip4/192.0.2.9/tcp/4009",))

    run(main)


async def tell_of(host, victim, others):
    """A PRUNE with peers, as a peer of the victim sends it."""
    stream = await host.open_stream(victim.node, "/meshsub/1.1.0")
    prune = Prune(TOPIC.encode(), 60, tuple((ED25519_HEAD + node, record) for node, record in others))
    body = wrap_control(write_prune(prune))
    await stream.write(write_varint(len(body)) + body)
    return stream


@pytest.mark.parametrize(
    ("is_on", "is_vouched", "is_signed", "is_dialled"),
    [(True, True, True, True), (False, True, True, False), (True, False, True, False), (True, True, False, False)],
)
def test_whom_a_pruning_peer_names_is_dialled_only_if_it_is_on_vouched_and_signed(
    is_on, is_vouched, is_signed, is_dialled
):
    async def main():
        async with (
            open_nets(NetOptions(peer_exchange=is_on)) as ((victim,), _),
            running_host(7) as (teller, _),
            running_host(9) as (named, _),
        ):
            if is_vouched:
                victim.guard.allow(teller.node)
            record = seal(9, named.addresses)
            record = record if is_signed else record[:-1] + bytes([record[-1] ^ 1])
            assert await teller.dial(victim.node, victim.addresses)
            await until(lambda: teller.node in victim.peers())
            await tell_of(teller, victim, [(named.node, record)])
            if is_dialled:
                await until(lambda: named.node in victim.peers())
            else:
                await settle(victim, teller)
                assert named.node not in victim._keeper.book.entries

    run(main)


async def settle(victim: Libp2pNet, teller) -> None:
    """Until the victim has read what came before: the backoff that the PRUNE set shows it."""
    mesh = victim._gossip.router._mesh
    await until(lambda: mesh.is_backed_off(TOPIC.encode(), teller.node))
    await trio.lowlevel.checkpoint()


def test_a_pruned_peer_is_told_of_others_with_their_own_records():
    async def main():
        on = NetOptions(peer_exchange=True)
        async with open_nets(on, on, on) as ((a, b, c), _):
            for other in (b, c):
                a.learn(other.node, other.addresses)
            await until(lambda: len(a.subscribers(TOPIC)) == 2)
            router = a._gossip.router
            await until(lambda: all(router._state.peers[node].record for node in (b.node, c.node)))
            b.guard.allow(a.node)
            b._gossip.rate(a.node, 100.0)

            a.unsubscribe(TOPIC)

            await until(lambda: c.node in b.peers())

    run(main)


def test_the_node_of_a_host_is_what_its_peer_id_says():
    assert to_node(ID.from_pubkey(create_new_key_pair(b"\x01" * 32).public_key)) == get_node(1)
