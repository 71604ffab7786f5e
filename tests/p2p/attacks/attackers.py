"""Strangers, each attack a coroutine in a process of its own: it goes on until the process is ended.

They use our host where that saves work, and raw sockets where ours would be too polite.
"""

import itertools
import os
import resource
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import cast

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError

from p2p import dialback
from p2p.doors import HostLimits
from p2p.gossip import MESHSUB
from p2p.gossipsub.signing import ED25519_HEAD, compute_message_id
from p2p.gossipsub.wire import (
    Message,
    Prune,
    wrap_control,
    write_bytes,
    write_graft,
    write_ihave,
    write_iwant,
    write_message,
    write_plain,
    write_prune,
    write_subscription,
    write_varint,
)
from p2p.host import Host, StreamRefused, open_host, to_peer
from p2p.muxed import Muxed
from p2p.net import STREAM_BYTES_MAX
from tests.p2p.attacks import scene
from tests.p2p.attacks.scene import Aim

PAUSE_S = 0.02
SIGNATURE = bytes(64)
TOPIC, SIGNED_TOPIC = scene.TOPIC.encode(), scene.SIGNED_TOPIC.encode()


_told: list[Connection] = []


def tell(what: str) -> None:
    """Say something to the test."""
    _told[0].send(what)


def main(connection: Connection, name: str, aim: Aim) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    _told.append(connection)

    async def run() -> None:
        connection.send(time.monotonic())
        await globals()[name](aim)
        await trio.sleep_forever()

    trio.run(run)


# Being somebody


@asynccontextmanager
async def being(
    aim: Aim, number: int = 1, serves: Callable[[NetStream], Awaitable[None]] | None = None
) -> AsyncIterator[Host]:
    """A host of a fresh key at address `number` of the attackers, connected to the victim unless it is refused."""
    nothing = lambda *arguments: None  # noqa: E731
    address = f"{scene.ATTACKER_NET}.{number}"
    async with open_host(os.urandom(32), address, 0, HostLimits(), nothing, nothing, nothing) as host:
        if serves is not None:
            host.serve(MESHSUB, serves)
        await host.dial(aim.node, aim.addresses)
        yield host


async def pester(host: Host, aim: Aim, protocol: str, writes: Iterable[bytes], pause_s: float = PAUSE_S) -> None:
    """Send each of these on a stream; on a new one, over a new connection if need be, whenever that ends."""
    stream: NetStream | None = None
    for data in writes:
        await trio.sleep(pause_s)
        try:
            if stream is None:
                stream = await host.open_stream(aim.node, protocol)
            await stream.write(data)
        except StreamRefused:
            await host.dial(aim.node, aim.addresses)
        except IOException:
            stream = None


def frame(rpc: bytes) -> bytes:
    return write_varint(len(rpc)) + rpc


def control(*bodies: bytes) -> bytes:
    return frame(wrap_control(b"".join(bodies)))


JOIN = frame(write_subscription(True, TOPIC) + write_subscription(True, SIGNED_TOPIC))
NOISE = os.urandom(4_096)
NUMBERS = 4
STREAMS_EACH = 8


async def gossip(aim: Aim, writes: Iterable[bytes], pause_s: float = PAUSE_S) -> None:
    """Join the topics and send these packets."""
    async with being(aim) as host:
        await pester(host, aim, MESHSUB, itertools.chain([JOIN], writes), pause_s)


# On the gossip stream


async def junk_packets(aim: Aim) -> None:
    await gossip(aim, itertools.repeat(frame(b"\xff\xff\xff\xff\xff")))


async def junk_keys(aim: Aim) -> None:
    """A2 and A3: authors whose key is none, is too short, or belongs to someone else."""
    hashed = Message(SIGNED_TOPIC, b"x", b"\x12\x20" + bytes(32), bytes(8), SIGNATURE, b"junk")
    short = Message(SIGNED_TOPIC, b"x", bytes(38), bytes(8), SIGNATURE, b"\x08\x01\x12\x03abc")
    other = Message(SIGNED_TOPIC, b"x", ED25519_HEAD + bytes(32), bytes(8), SIGNATURE, b"\x08\x01\x12\x20" + bytes(32))
    on_unsigned = Message(TOPIC, b"x", ED25519_HEAD + bytes(32), bytes(8), SIGNATURE, b"junk")
    packets = [frame(write_message(message)) for message in (hashed, short, other, on_unsigned)]
    await gossip(aim, itertools.cycle(packets))


async def bad_signatures(aim: Aim) -> None:
    """A4: five thousand in one packet, from as many authors. One packet, no more."""
    messages = [
        Message(SIGNED_TOPIC, b"x" * 16, ED25519_HEAD + struct.pack("!I28x", i), struct.pack("!Q", i), SIGNATURE)
        for i in range(5_000)
    ]
    await gossip(aim, [frame(b"".join(map(write_message, messages)))])
    await trio.sleep_forever()


async def bad_envelopes(aim: Aim) -> None:
    """As above on a topic of ours: the envelope's signature is junk."""
    whole = [scene.write_honest(bytes([i % 250]) * 32, i) for i in range(2_500)]
    field = write_bytes(4, TOPIC)
    await gossip(aim, [frame(b"".join([write_plain(data[:-1] + b"?", field) for data in whole]))])
    await trio.sleep_forever()


async def repeated_iwant(aim: Aim) -> None:
    """A5: one large message asked for eight thousand times in one packet, again and again."""
    data = scene.write_honest(bytes([7]) * 32, 0, 60_000)
    wish = control(write_iwant([compute_message_id(scene.TOPIC, data)] * 8_000))
    say = frame(write_plain(data, write_bytes(4, TOPIC)))
    async with being(aim, serves=read_all) as host:
        await pester(host, aim, MESHSUB, itertools.chain([JOIN, say], itertools.repeat(wish)))


async def read_all(stream: NetStream) -> None:
    while await stream.read(65_536):
        pass


async def long_ihave(aim: Aim) -> None:
    """A6: twenty thousand unknown ids in one packet. One packet, no more."""
    await gossip(aim, [control(write_ihave(TOPIC, [struct.pack("!Q12x", i) for i in range(20_000)]))])
    await trio.sleep_forever()


async def broken_promises(aim: Aim) -> None:
    """Advertisements no longer than allowed, of messages that never come."""
    await gossip(aim, (control(write_ihave(TOPIC, [os.urandom(20)])) for _ in itertools.count()))


async def empty_control(aim: Aim) -> None:
    """As many of the smallest fields as a packet has room for, where ids are expected: work without an effect."""
    body = write_bytes(1, write_bytes(1, TOPIC) + b"\x1a\x00" * 5_000)
    await gossip(aim, itertools.repeat(control(*[body] * 100)))


async def grafts_in_backoff(aim: Aim) -> None:
    await gossip(
        aim, itertools.chain([control(write_prune(Prune(TOPIC, 60)))], itertools.repeat(control(write_graft(TOPIC))))
    )


async def subscriptions(aim: Aim) -> None:
    """Three thousand topics nobody knows in one packet, then on and off one that we are on."""
    names = b"".join(write_subscription(True, b"flood %d" % i) for i in range(3_000))
    churn = (write_subscription(True, TOPIC) + write_subscription(False, TOPIC)) * 500
    await gossip(aim, itertools.chain([frame(names)], itertools.repeat(frame(churn))))


async def oversized_frames(aim: Aim) -> None:
    await gossip(aim, itertools.repeat(write_varint(2**27) + NOISE))


async def endless_lengths(aim: Aim) -> None:
    await gossip(aim, itertools.repeat(b"\xff" * 4_096))


async def forged_copies(aim: Aim) -> None:
    """What the honest peer is about to say, with a junk signature, before it says it: by many, a few each."""

    def forge(number: int) -> Iterator[bytes]:
        field = write_bytes(4, TOPIC)
        for i in itertools.count(aim.details["first"] + number, NUMBERS):
            data = scene.write_honest(scene.HONEST_SEED, i)
            yield frame(write_plain(data[:-1] + bytes([data[-1] ^ 1]), field))
            seqno = struct.pack("!Q", aim.honest_seqno + aim.details["first"] // 10 + i)
            data = scene.write_honest(scene.HONEST_SEED, aim.details["first"] // 10 + i)
            yield frame(write_message(Message(SIGNED_TOPIC, data, scene.HONEST_AUTHOR, seqno, SIGNATURE)))

    async def race(number: int) -> None:
        async with being(aim, number + 1) as host:
            await pester(host, aim, MESHSUB, itertools.chain([JOIN], forge(number)), 0.05)

    async with trio.open_nursery() as nursery:
        for number in range(NUMBERS):
            nursery.start_soon(race, number)


# On every stream


async def garbage_on_streams(aim: Aim) -> None:
    """Each protocol has an attacker of its own; each in turn sends noise, and headers that lie."""
    writes = [NOISE, struct.pack("!BII", 0, 1, 2**32 - 1), struct.pack("!BII", 1, 1, 1) + b"x", b"\xff" * 100]

    async def spoil(number: int, protocol: str) -> None:
        async with being(aim, number) as host:
            await pester(host, aim, protocol, itertools.cycle(writes))

    async with trio.open_nursery() as nursery:
        for number, protocol in enumerate(aim.details["protocols"], 1):
            nursery.start_soon(spoil, number, protocol)


async def garbage_before_streams(aim: Aim) -> None:
    """Where a stream's protocol is chosen: noise, a line without end, and names nobody serves, without end."""
    first = write_varint(20) + b"/multistream/1.0.0\n"
    unknown = write_varint(6) + b"/junk\n"
    writes = (NOISE, write_varint(2**20) + NOISE * 15, first + unknown * 2_000)

    async def spoil(number: int, data: bytes) -> None:
        async with being(aim, number) as host:
            while True:
                await trio.sleep(PAUSE_S)
                try:
                    await _get_muxed(host, aim).open_stream_now().write(data)
                except (LookupError, MuxedConnUnavailable):
                    await host.dial(aim.node, aim.addresses)
                except MuxedStreamError:
                    continue

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(writes, 1):
            nursery.start_soon(spoil, number, data)


async def garbage_on_yamux(aim: Aim) -> None:
    """Frames that break yamux, and floods of frames that do not look as if they did."""
    pack = struct.Struct("!BBHII").pack
    writes = (
        NOISE,
        pack(0, 9, 0, 1, 1),
        pack(0, 0, 1, 4_001, 2**31),  # more than any window
        b"".join(pack(0, 2, 1, 0, i) for i in range(2_000)),  # pings
        b"".join(pack(0, 1, 1, 2 * i + 10_001, 0) for i in range(2_000)),  # streams opened
        (pack(0, 0, 0, 999_999, 60_000) + bytes(60_000)) * 4,  # data of no stream
    )

    async def spoil(number: int, data: bytes) -> None:
        async with being(aim, number) as host:
            while True:
                await trio.sleep(PAUSE_S)
                try:
                    muxed = _get_muxed(host, aim)
                except LookupError:
                    await host.dial(aim.node, aim.addresses)
                    continue
                if muxed.out_bytes < 2**20:
                    muxed._session._out += data
                    muxed._session._merge_id = 0
                    muxed._wake.set()

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(writes, 1):
            nursery.start_soon(spoil, number, data)


def _get_muxed(host: Host, aim: Aim) -> Muxed:
    """The connection to the victim. LookupError when there is none."""
    return cast(Muxed, host.swarm.connections[to_peer(aim.node)][0].muxed_conn)


# Without an identity


async def half_open(aim: Aim) -> None:
    """A7: a thousand connections from one address, five bytes each, and new ones for those that are closed."""

    async def hold() -> None:
        while True:
            await _call(aim, 1, b"\x13/mul")
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        for _ in range(1_000):
            nursery.start_soon(hold)


async def garbage_on_sockets(aim: Aim) -> None:
    """What is no libp2p, and what begins like it: nothing of it leads to an identity."""
    hello = write_varint(20) + b"/multistream/1.0.0\n" + write_varint(7) + b"/noise\n"
    writes = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        NOISE,
        hello + NOISE,
        hello + struct.pack("!H", 32) + os.urandom(32),
        hello + struct.pack("!H", 0xFFFF) + NOISE * 15,
        write_varint(2**20 - 1) + NOISE * 255,
    )

    async def spoil(number: int, data: bytes) -> None:
        while True:
            await _call(aim, number, data)
            await trio.sleep(PAUSE_S)

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(writes, 1):
            for _ in range(12):
                nursery.start_soon(spoil, number, data)


async def _call(aim: Aim, number: int, data: bytes) -> None:
    """Connect from an address, write, and wait until the other side hangs up."""
    try:
        stream = await trio.open_tcp_stream(*aim.endpoint, local_address=f"{scene.ATTACKER_NET}.{number}")
        async with stream:
            await stream.send_all(data)
            while await stream.receive_some(65_536):
                pass
    except (OSError, trio.BrokenResourceError):
        return


# Slowly


async def deaf_to_gossip(aim: Aim) -> None:
    """Reads nothing of what it has subscribed to, while another makes sure that there is much of it. Tells when its
    stream has ended."""

    async def ignore(stream: NetStream) -> None:
        await _wait_for_end(stream)
        tell("ended")
        await trio.sleep_forever()

    def talk() -> Iterator[bytes]:
        field = write_bytes(4, TOPIC)
        for i in itertools.count():
            yield frame(write_plain(scene.write_honest(bytes([7]) * 32, i, 60_000), field))

    async with being(aim, 1, ignore) as host, being(aim, 2, read_all) as other, trio.open_nursery() as nursery:
        nursery.start_soon(pester, host, aim, MESHSUB, itertools.chain([JOIN, control(write_graft(TOPIC))]))
        nursery.start_soon(pester, other, aim, MESHSUB, itertools.chain([JOIN], talk()), 0.05)


async def deaf_to_answers(aim: Aim) -> None:
    """Asks for blocks on as many streams of every protocol as it may have, and reads no answer."""
    ask = struct.pack("!BII", 0, 1, len(scene.BIG)) + scene.BIG
    async with being(aim) as host:
        streams = [
            await host.open_stream(aim.node, protocol) for protocol in scene.PROTOCOLS for _ in range(STREAMS_EACH)
        ]
        for _ in range(64 // STREAMS_EACH):
            for stream in streams:
                await stream.write(ask)
        while not any(stream.is_closed for stream in streams):  # those that have an answer waiting
            await trio.sleep(PAUSE_S)
        tell("ended")


async def sips_answers(aim: Aim) -> None:
    """Reads no answer either, but gives credit for one more byte ten times a second."""
    async with being(aim) as host:
        stream = await host.open_stream(aim.node, scene.BLOB)
        await stream.write(struct.pack("!BII", 0, 1, len(scene.BIG)) + scene.BIG)
        muxed = _get_muxed(host, aim)
        number = stream.muxed_stream.stream_id
        while not stream.is_closed:
            muxed._session._queue(1, 0, number, 1)
            muxed._wake.set()
            await trio.sleep(0.1)
        tell("ended")


async def deaf_socket(aim: Aim) -> None:
    """Takes nothing from its socket at all."""
    ask = struct.pack("!BII", 0, 1, len(scene.BIG)) + scene.BIG
    async with being(aim) as host:
        stream = await host.open_stream(aim.node, scene.BLOB)
        for _ in range(64):
            await stream.write(ask)
        await trio.sleep(0.1)
        time.sleep(3_600)  # the whole process


async def slow_writers(aim: Aim) -> None:
    """A byte at a time in the middle of a frame, on every protocol there is. Tells when the last stream has ended."""
    lengths = {MESHSUB: frame(bytes(1_000)), dialback.PROTOCOL: struct.pack("!I", 1_000) + bytes(1_000)}
    whole = struct.pack("!BII", 0, 1, 1_000) + bytes(1_000)

    async def trickle(host: Host, protocol: str) -> None:
        data = lengths.get(protocol, whole)
        try:
            stream = await host.open_stream(aim.node, protocol)
            for at in range(len(data)):
                await stream.write(data[at : at + 1])
                await trio.sleep(aim.details["pause_s"])
        except (IOException, StreamRefused):
            return
        raise AssertionError(f"{protocol} took all of it")

    async def trickle_a_name(host: Host) -> None:
        stream = _get_muxed(host, aim).open_stream_now()
        try:
            for byte in write_varint(1_000) + bytes(1_000):
                await stream.write(bytes([byte]))
                await trio.sleep(aim.details["pause_s"])
        except MuxedStreamError:
            return

    async with being(aim, serves=read_all) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle_a_name, host)
            for protocol in aim.details["protocols"]:
                nursery.start_soon(trickle, host, protocol)
        tell("ended")


async def hoarders(aim: Aim) -> None:
    """All but the last byte of the largest request, on as many streams of every protocol as it may have."""
    data = struct.pack("!BII", 0, 1, STREAM_BYTES_MAX) + bytes(STREAM_BYTES_MAX - 1)

    async def hoard(host: Host, protocol: str) -> None:
        try:
            stream = await host.open_stream(aim.node, protocol)
            await stream.write(data)
            await _wait_for_end(stream)
        except (IOException, StreamRefused):
            return

    async with being(aim) as host:
        async with trio.open_nursery() as nursery:
            for protocol in scene.PROTOCOLS * STREAMS_EACH:
                nursery.start_soon(hoard, host, protocol)
        tell("ended")


async def _wait_for_end(stream: NetStream) -> None:
    """Until the victim has ended a stream, without reading it."""
    while not stream.is_closed:
        await trio.sleep(PAUSE_S)
