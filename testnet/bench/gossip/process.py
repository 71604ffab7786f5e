"""One process of the gossip benchmark: nodes of one stack, told what to do over standard input.

One JSON command per line, one JSON answer each, in order; `testnet/bench/js/bench.mjs` understands the same ones. The
process of js-libp2p and these differ in nothing else: the loop that publishes is the same, so are what is counted and
how the other process is told.
"""

import functools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import trio

from protocol.envelope import seal
from protocol.keys import PrivateKey, verify
from roles.interpreter import set_up_interpreter
from testnet.bench.gossip.nodes import CHAIN, STACKS, Node
from testnet.bench.gossip.shares import Sampler
from testnet.bench.gossip.tally import ENVELOPE_TAIL, HEADER_BYTES, Round, Tally, ignore, write_payload

KIND = 0x7F00  # of a message nobody registered
POLL_S = 0.005
SETTLE_S = 20
PATIENCE_S = 5.0  # without any delivery, after which what is missing counts as lost
BEHIND_S = 2.0
COUNT_BYTES = 8
SEALED_PER_S_MAX = 20_000  # more than anybody verifies
TURN_BYTES = 2_048  # published before others run, in whichever stack

Answer = dict[str, Any]


class Process:
    """The commands, each a method that begins with `do_`."""

    def __init__(self, stack: str, nodes: AsyncExitStack, tasks: trio.Nursery) -> None:
        self._stack = stack
        self._to_close = nodes
        self._tasks = tasks
        self._nodes: list[Node] = []
        self._tally = Tally(0)
        self._sampler = Sampler()
        self._spent_s = 0.0

    async def do_open(self, members: int, host: str, policy: str) -> Answer:
        """Nodes on consecutive addresses: `host` is the first three numbers and the first of the fourth."""
        self._policy = policy
        self._tally = Tally(members)
        block, _, first = host.rpartition(".")
        for member in range(members):
            here = f"{block}.{int(first) + member}"
            seed = bytes(int(part) for part in here.split(".")) * 8
            note = functools.partial(self._tally.note, member)
            self._nodes.append(await self._to_close.enter_async_context(STACKS[self._stack](seed, here, policy, note)))
        self._signer = PrivateKey(bytes(32))
        return {"nodes": [{"name": node.name, "address": node.address} for node in self._nodes]}

    async def do_connect(self, member: int, name: str, address: str) -> Answer:
        """Milliseconds until there is a secured connection that carries streams."""
        began = time.perf_counter()
        await self._nodes[member].connect(name, address)
        return {"ms": 1_000 * (time.perf_counter() - began)}

    async def do_settle(self, peers: int) -> Answer:
        """Wait until every node knows so many others on the topic."""
        with trio.fail_after(SETTLE_S):
            while min(node.count_subscribers() for node in self._nodes) < peers:
                await trio.sleep(POLL_S)
        return {}

    async def do_expect(self, tell_every: int = 0, is_sampled: bool = False, **round_: Any) -> Answer:
        """Begin a round. With `tell_every`, whoever connects to the port is told the count so often.

        When they say how many they sent, they are told of the last one too.
        """
        self._begin(round_)
        if is_sampled:
            self._sampler.start()
        self._spent_s = time.process_time()
        if not tell_every:
            return {}
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._tasks.start_soon(self._tell, listener, tell_every)
        return {"port": listener.socket.getsockname()[1]}

    def _begin(self, round_: dict[str, Any]) -> Round:
        tail = ENVELOPE_TAIL if self._policy == "envelope" else 0
        asked = Round(**round_, tail=tail)
        self._tally.begin(asked)
        return asked

    async def _tell(self, listener: trio.SocketListener, every: int) -> None:
        async with listener:
            stream = await listener.accept()
        tally, total, sock = self._tally, 0, stream.socket

        def tell(count: int) -> None:
            if count % every == 0 or total:
                _send_now(sock, count)

        async with stream:
            tally.on_count = tell
            tell(0)
            # Whoever follows hangs up once it has heard enough: what it did not read by then comes back as a reset.
            with suppress(trio.BrokenResourceError):
                async for data in stream:
                    total = int.from_bytes(data)
                    tell(tally.count)
            if tally.on_count is tell:  # and not that of the next round
                tally.on_count = ignore

    async def do_count(self) -> Answer:
        """How many have arrived so far."""
        return {"delivered": self._tally.count}

    async def do_spent(self) -> Answer:
        """What came of the round that was expected, so far."""
        spent_s = time.process_time() - self._spent_s
        shares = self._sampler.stop()
        delivered, latencies = self._tally.count, self._tally.latencies_ms
        return {"delivered": delivered, "cpu_s": spent_s, "shares": shares, "latencies_ms": latencies}

    async def do_flow(
        self, seconds: float, messages: int, window: int, is_burst: bool = False, port: int = 0, **round_: Any
    ) -> Answer:
        """Publish for so long or so many, as fast as `window` messages under way allow, members in turn.

        Arrivals are counted by whoever listens on the port, or here. In a burst nothing lets others run between two
        messages but what publishing itself does. Envelopes are sealed before the clock starts: whoever verifies as much
        as it can hears many authors, and this process stands for all of them.
        """
        asked, tally, nodes = self._begin(round_), self._tally, self._nodes
        filler, per_turn = bytes(asked.size - HEADER_BYTES), max(1, TURN_BYTES // asked.size)
        sealed: list[bytes] = []
        if self._policy == "envelope":
            messages = min(messages, int(seconds * SEALED_PER_S_MAX))
            sealed = [self._write(asked.number, seq, 0, filler) for seq in range(messages)]
        async with AsyncExitStack() as stack:
            counter = await stack.enter_async_context(self._follow(port)) if port else None
            began, spent_s, seq = time.perf_counter(), time.process_time(), 0
            while seq < messages and time.perf_counter() - began < seconds:
                data = sealed[seq] if sealed else write_payload(asked.number, seq, 0, filler)
                await nodes[seq % len(nodes)].publish(data)
                seq += 1
                if not is_burst and seq % per_turn == 0:
                    await trio.lowlevel.checkpoint()
                behind = (seq - window) * asked.listeners
                if behind > tally.count and not await tally.wait_for(behind, PATIENCE_S):
                    break
            if counter is not None:
                await counter.send_all(seq.to_bytes(COUNT_BYTES))
            await tally.wait_for(seq * asked.listeners, PATIENCE_S)
            took_s, spent_s = tally.last_s - began, time.process_time() - spent_s
        return {"seconds": took_s, "sent": seq, "delivered": tally.count, "cpu_s": spent_s}

    @asynccontextmanager
    async def _follow(self, port: int) -> AsyncIterator[trio.SocketStream]:
        """Have this process's count follow that of another."""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            await stream.receive_some(COUNT_BYTES)  # the other end has begun
            nursery.start_soon(self._take_counts, stream)
            yield stream
            nursery.cancel_scope.cancel()

    async def _take_counts(self, stream: trio.SocketStream) -> None:
        rest = b""
        async for data in stream:
            rest += data
            whole = len(rest) // COUNT_BYTES * COUNT_BYTES
            if whole:
                self._tally.set_count(int.from_bytes(rest[whole - COUNT_BYTES : whole]))
                rest = rest[whole:]

    def _write(self, number: int, seq: int, due_ns: int, filler: bytes) -> bytes:
        payload = write_payload(number, seq, due_ns, filler)
        if self._policy != "envelope":
            return payload
        return seal(self._signer, CHAIN, KIND, number, seq, time.time_ns() // 1_000_000, payload)

    async def do_pace(self, number: int, size: int, seqs: list[int], start_ns: int, every_ns: int) -> Answer:
        """Publish these numbers of the round, each when it is due; latencies count from then.

        Whoever is BEHIND_S behind stops: it cannot keep up, and what it did not publish counts as lost.
        """
        filler = bytes(size - HEADER_BYTES)
        for seq in seqs:
            due_ns = start_ns + seq * every_ns
            wait_s = (due_ns - time.monotonic_ns()) / 1e9
            if wait_s < -BEHIND_S:
                break
            await trio.sleep(max(0.0, wait_s))
            await self._nodes[0].publish(self._write(number, seq, due_ns, filler))
        return {}

    async def do_verify(self, seconds: float) -> Answer:
        """How many signatures of envelopes this machine verifies a second on one core, doing nothing else."""
        preimage = bytes(64)
        signature = self._signer.sign(preimage)
        count, began, ends = 0, time.perf_counter(), time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for _ in range(100):
                verify(self._signer.public, preimage, signature)
            count += 100
        return {"per_s": count / (time.perf_counter() - began)}


def _send_now(sock: trio.socket.SocketType, count: int) -> None:
    # When there is no room a later count says as much; when the other end has hung up it wants none.
    with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        os.write(sock.fileno(), count.to_bytes(COUNT_BYTES))


async def serve(stack: str) -> None:
    """Until standard input closes."""
    async with trio.open_nursery() as tasks:
        async with AsyncExitStack() as nodes:
            process = Process(stack, nodes, tasks)
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                command = json.loads(line)
                act: Callable[..., Awaitable[Answer]] = getattr(process, "do_" + command.pop("do"))
                print(json.dumps(await act(**command)), flush=True)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    set_up_interpreter()  # as in nodes, for every stack in Python alike
    trio.run(serve, sys.argv[1])
