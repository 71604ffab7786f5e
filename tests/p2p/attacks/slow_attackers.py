"""Strangers who break no rule but take their time."""

import itertools
import socket
import struct
import time
from collections.abc import Iterator

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p import dialback
from p2p.gossip import MESHSUB
from p2p.gossipsub.wire import write_graft, write_plain
from p2p.host import Host
from p2p.host_streams import StreamRefused
from p2p.net import STREAM_BYTES_MAX
from p2p.protobuf import write_bytes, write_varint
from tests.p2p.attacks import scene
from tests.p2p.attacks.scene import Aim
from tests.p2p.attacks.stranger import (
    JOIN,
    PAUSE_S,
    STREAMS_EACH,
    TOPIC,
    being,
    control,
    frame,
    get_muxed,
    pester,
    read_all,
    tell,
    wait_for_end,
)


async def deaf_to_gossip(aim: Aim) -> None:
    """Reads nothing of what it has subscribed to, while another makes sure that there is much of it. Tells when its
    stream has ended."""

    async def ignore(stream: NetStream) -> None:
        await wait_for_end(stream)
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
        muxed = get_muxed(host, aim)
        number = stream.muxed_stream.stream_id
        while not stream.is_closed:
            muxed._session._session.output.put_control(1, 0, number, 1)
            muxed._writer.wake()
            await trio.sleep(0.1)
        tell("ended")


async def deaf_socket(aim: Aim) -> None:
    """Takes nothing from its socket at all."""
    ask = struct.pack("!BII", 0, 1, len(scene.BIG)) + scene.BIG
    async with being(aim) as host:
        # Else the kernels of both sides would hold a whole window between them, and nobody would ever be stuck.
        wire = get_muxed(host, aim)._writer.wire
        wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
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
        stream = get_muxed(host, aim).open_stream_now()
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
            await wait_for_end(stream)
        except (IOException, StreamRefused):
            return

    async with being(aim) as host:
        async with trio.open_nursery() as nursery:
            for protocol in scene.PROTOCOLS * STREAMS_EACH:
                nursery.start_soon(hoard, host, protocol)
        tell("ended")
