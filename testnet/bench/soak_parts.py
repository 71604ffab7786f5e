"""The three processes of a soak: the node that is watched, its two steady peers, and the peers that come and go.

Each says where it is in its first line, then one JSON object a second, until its standard input closes.

    python -m testnet.bench.soak_parts node|steady|churn SEED [NODE ADDRESS FILL-SECONDS]
"""

import ctypes
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from p2p.addresses import parse_address
from p2p.libp2p_net import Libp2pNet, open_libp2p_net
from p2p.net import Answered, Asked, Delivered, NetEvent, PeerConnected, Unanswered
from protocol.types import Verdict
from roles.status import get_rss_bytes

CHAIN = bytes(32).hex()
TOPICS = tuple(f"/rolemesh/{CHAIN}/{name}/1" for name in ("claims", "infer/0", "node"))
ECHO = f"/rolemesh/{CHAIN}/soak/1"
STEADY = 2  # peers that stay
STEADY_PER_S = 10  # messages of each of them
CHURN_PER_S = 10
STAY_S = (0.3, 3.0)  # how long a peer stays
PATIENCE_S = 10.0
MEET_S = 4.0
ASK_MS = 5_000
HELLO = b"\x13/multistream/1.0.0\n\x07/noise\n"
# What a caller has said when it falls silent: nothing; that it speaks Noise; its ephemeral key, which the node answers.
HALF = (b"", HELLO, HELLO + b"\x00\x20" + bytes(range(32)))
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
LIBC = ctypes.CDLL(None)
NOWHERE = struct.pack("H14x", socket.AF_UNSPEC)


def check(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    """Churners say junk now and then."""
    return Verdict.ACCEPT if data[:1] in b"sc" else Verdict.IGNORE


# The node


async def run_node(seed: bytes) -> None:
    """A network as a node opens it, that answers requests and publishes a little itself."""
    counts = {"steady": 0, "churned": 0, "others": 0}

    def take(event: NetEvent) -> None:
        if isinstance(event, Asked):
            net.reply(event.token, event.data)
        elif isinstance(event, PeerConnected):
            counts["churned"] += 1
        elif isinstance(event, Delivered):
            counts["steady" if event.data[:1] == b"s" else "others"] += 1

    async with open_libp2p_net(seed, "127.0.12.1", 0, take) as net:
        for topic in TOPICS:
            net.subscribe(topic, check)
        net.serve(ECHO)
        print(net.node.hex(), *net.addresses, flush=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_every_second, lambda: {**take_sample(net), **counts})
            await wait_for_end()
            nursery.cancel_scope.cancel()


def take_sample(net: Libp2pNet) -> dict[str, Any]:
    """This moment of the process and of all that its network remembers."""
    statistics = trio.lowlevel.current_statistics()
    return {
        "rss": get_rss_bytes(),
        "blocks": sys.getallocatedblocks(),
        "cpu_s": time.process_time(),
        "tasks": statistics.tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "sizes": net.sizes(),
        "faults": len(net.faults()),
    }


# The steady peers


async def run_steady(seed: bytes, node: bytes, address: str) -> None:
    """Two peers with the node between them: what one publishes the other must hear."""
    counts = {"published": 0, "heard": 0, "answered": 0, "unanswered": 0}

    def take(event: NetEvent) -> None:
        if isinstance(event, Delivered) and event.data[:1] == b"s":
            counts["heard"] += 1
        elif isinstance(event, Answered):
            counts["answered"] += 1
        elif isinstance(event, Unanswered):
            counts["unanswered"] += 1

    async with trio.open_nursery() as nursery:
        for number in range(STEADY):
            own = bytes([number]) + seed[1:]
            nursery.start_soon(keep_talking, own, f"127.0.12.{number + 2}", node, address, take, counts)
        print("ready", flush=True)
        nursery.start_soon(say_every_second, lambda: dict(counts))
        await wait_for_end()
        nursery.cancel_scope.cancel()


async def keep_talking(
    seed: bytes, at: str, node: bytes, address: str, take: Callable[[NetEvent], None], counts: dict[str, int]
) -> None:
    async with open_libp2p_net(seed, at, 0, take) as net:
        for topic in TOPICS:
            net.subscribe(topic, check)
        net.learn(node, (address,))
        with trio.fail_after(PATIENCE_S):
            while any(node not in net.subscribers(topic) for topic in TOPICS):
                await trio.sleep(0.01)
        next_s = trio.current_time()
        for number in range(2**62):
            topic = TOPICS[number % len(TOPICS)]
            net.publish(topic, b"s" + net.node[:8] + struct.pack("!Q", number) + bytes(495), f"p{number}")
            counts["published"] += 1
            if number % STEADY_PER_S == 0:
                net.request(node, ECHO, bytes(1_024), f"r{number}", ASK_MS)
            next_s = max(next_s + 1 / STEADY_PER_S, trio.current_time() - 1)
            await trio.sleep_until(next_s)


# Those who come and go


async def run_churn(seed: bytes, node: bytes, address: str, fill_s: float) -> None:
    """CHURN_PER_S callers a second: a third leave politely, a third reset, a third never finish their handshake.

    In the first `fill_s` seconds all of them connect and say nothing: those are remembered longest and in full, so
    that what a node remembers of peers reaches its bounds.
    """
    dice = random.Random(seed)
    counts = {"came": 0, "met": 0, "failed": 0}
    filling = (partial(visit, is_polite=True, is_mute=True),)
    acts = (partial(visit, is_polite=True), partial(visit, is_polite=False), fall_silent)
    async with trio.open_nursery() as nursery:
        print("ready", flush=True)
        nursery.start_soon(say_every_second, lambda: dict(counts))
        nursery.start_soon(wait_for_end, nursery.cancel_scope)
        began_s = next_s = trio.current_time()
        for number in range(2**62):
            act = dice.choice(filling if next_s < began_s + fill_s else acts)
            # Strangers from everywhere: each from a block of addresses of its own, of 16,384.
            at = f"127.{64 + number // 256 % 64}.{number % 256}.1"
            nursery.start_soon(act, random.Random(dice.random()), at, node, address, counts)
            counts["came"] += 1
            next_s += 1 / CHURN_PER_S
            await trio.sleep_until(next_s)


async def visit(
    dice: random.Random,
    at: str,
    node: bytes,
    address: str,
    counts: dict[str, int],
    *,
    is_polite: bool,
    is_mute: bool = False,
) -> None:
    """Connect with a fresh key, subscribe, publish a few, leave."""
    met = trio.Event()

    def take(event: NetEvent) -> None:
        if isinstance(event, PeerConnected):
            met.set()

    async with open_libp2p_net(dice.randbytes(32), at, 0, take) as net:
        for topic in dice.sample(TOPICS, 0 if is_mute else dice.randint(1, len(TOPICS))):
            net.subscribe(topic, check)
        net.learn(node, (address,))
        with trio.move_on_after(MEET_S):
            await met.wait()
        if not met.is_set():
            counts["failed"] += 1
            return  # trying on would be a storm of dials
        counts["met"] += 1
        await trio.sleep(dice.uniform(*STAY_S))
        for number in range(0 if is_mute else dice.randint(0, 5)):
            kind = dice.choice((b"c", b"c", b"junk"))
            net.publish(dice.choice(TOPICS), kind + dice.randbytes(dice.randint(8, 2_000)), f"p{number}")
        await trio.sleep(dice.uniform(0.0, 0.3))
        if not is_polite:
            reset_connections(at)


def reset_connections(at: str) -> None:
    """Reset every connection from one of our addresses, without a goodbye."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                # To connect to no address at all is to disconnect, which a kernel does with a reset.
                if sock.family == socket.AF_INET and sock.getsockname()[0] == at and not _is_listening(sock):
                    LIBC.connect(sock.fileno(), NOWHERE, len(NOWHERE))
        except OSError:
            continue  # gone meanwhile


def _is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


async def fall_silent(dice: random.Random, at: str, node: bytes, address: str, counts: dict[str, int]) -> None:
    """Begin a handshake and say no more, until the node or we lose patience."""
    host, port = parse_address(address) or ("", 0)
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM) as sock:
        await sock.bind((at, 0))
        try:
            await sock.connect((host, port))
            await sock.send(dice.choice(HALF))
            if dice.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with trio.move_on_after(dice.uniform(*STAY_S)):
                while await sock.recv(1_024):
                    pass
        except OSError:
            counts["failed"] += 1


# All of them


async def say_every_second(what: Callable[[], dict[str, Any]]) -> None:
    while True:
        print(json.dumps(what()), flush=True)
        await trio.sleep(1)


async def wait_for_end(scope: trio.CancelScope | None = None) -> None:
    """Until standard input closes, which it does when whoever started us has ended, in whatever way."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        async for _ in stdin:
            pass
    if scope is not None:
        scope.cancel()


def main(part: str, seed: str, *target: str) -> None:
    # An interrupt of the keyboard reaches everyone; whoever started us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own = random.Random(f"{part} {seed}").randbytes(32)
    if part == "node":
        trio.run(run_node, own)
    else:
        node, address, fill_s = target
        if part == "steady":
            trio.run(run_steady, own, bytes.fromhex(node), address)
        else:
            trio.run(run_churn, own, bytes.fromhex(node), address, float(fill_s))


if __name__ == "__main__":
    main(*sys.argv[1:])
