"""What strangers have in common: a process, a key, an address, and no manners.

They use our host where that saves work, and raw sockets where ours would be too polite.
"""

import os
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import cast

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.stream.net_stream import NetStream

from p2p.doors import HostLimits
from p2p.gossip import MESHSUB
from p2p.gossipsub.wire import wrap_control, write_subscription
from p2p.host import Host, open_host
from p2p.host_streams import StreamRefused
from p2p.muxed import Muxed
from p2p.peer_ids import to_peer
from p2p.protobuf import write_varint
from tests.p2p.attacks import scene
from tests.p2p.attacks.scene import Aim

PAUSE_S = 0.02
SIGNATURE = bytes(64)
TOPIC, SIGNED_TOPIC = scene.TOPIC.encode(), scene.SIGNED_TOPIC.encode()


_told: list[Connection] = []


def tell(what: str) -> None:
    """Say something to the test."""
    _told[0].send(what)


def main(connection: Connection, attack: Callable[[Aim], Awaitable[None]], aim: Aim) -> None:
    """Be the process of an attack: say when it begins, and go on until killed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
    _told.append(connection)

    async def run() -> None:
        connection.send(time.monotonic())
        await attack(aim)
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


async def read_all(stream: NetStream) -> None:
    while await stream.read(65_536):
        pass


def get_muxed(host: Host, aim: Aim) -> Muxed:
    """The connection to the victim. LookupError when there is none."""
    return cast(Muxed, host.swarm.connections[to_peer(aim.node)][0].muxed_conn)


async def wait_for_end(stream: NetStream) -> None:
    """Until the victim has ended a stream, without reading it."""
    while not stream.is_closed:
        await trio.sleep(PAUSE_S)
