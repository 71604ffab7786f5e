"""Faults on the links of one host: what it sends to whom is late, slow, stalled or lost, while it runs.

The thin trio half of `p2p.delay_line`. Every host has these; as long as no rule says anything about a peer, its bytes
go straight to the socket. A host does this to what it sends, and to the ways into a connection: dials and handshakes.
"""

import random
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from p2p.delay_line import CLEAR, RULES_MAX, Conditions, DelayLine, Rule, Silence
from p2p.wire import BufferedTCP, SocketWire
from protocol.errors import LocalError

DICE_MAX = 1_024  # peers whose draws go on where they stopped
LINGER_S_MAX = 60.0  # a closed connection may still send what was under way, as a kernel lets it


@dataclass
class Passage:
    """One connection as the rules see it. `node` is None until the other side has proved it."""

    address: str
    node: bytes | None = None


class LinkFaults:
    """The rules of one host and all its connections."""

    def __init__(self, node: bytes, tasks: trio.Nursery) -> None:
        self.rules: tuple[Rule, ...] = ()
        self._node = node
        self._tasks = tasks
        self._seed = 0
        self._dice: dict[str, random.Random] = {}
        self._wires: weakref.WeakKeyDictionary[SocketWire, Passage] = weakref.WeakKeyDictionary()
        self._changed = trio.Event()

    def put(self, rules: Iterable[Rule], seed: int = 0) -> None:
        """From now on these rules hold, and no others. `seed`, with the two node keys, sets all that is drawn."""
        rules = tuple(rules)
        if len(rules) > RULES_MAX:
            raise LocalError(f"{len(rules)} rules for links, at most {RULES_MAX}")
        if seed != self._seed:
            self._seed = seed
            self._dice.clear()
        self.rules = rules
        self._changed.set()
        self._changed = trio.Event()
        for wire, passage in list(self._wires.items()):
            self._apply(wire, passage)

    def find(self, address: str, node: bytes | None) -> Conditions:
        """How our way to a peer is now."""
        conditions = CLEAR
        for rule in self.rules:
            if rule.covers(address, node):
                conditions |= rule.conditions
        return conditions

    async def pass_dial(self, address: str, node: bytes | None = None) -> None:
        """The first packet of ours that a new connection needs, whoever dials. Raises ConnectionRefusedError.

        Where nothing comes through it waits, until that is over or whoever calls gives up.
        """
        while (conditions := self.find(address, node)).silence is not Silence.NONE:
            if conditions.silence is Silence.REFUSE:
                raise ConnectionRefusedError("refused by a fault on this link")
            await self._changed.wait()
        if conditions.delay_ms or conditions.jitter_ms:
            draw = self._get_dice(address, node).random()
            await trio.sleep((conditions.delay_ms + draw * conditions.jitter_ms) / 1_000)

    def open(self, stream: trio.SocketStream, passage: Passage) -> BufferedTCP:
        """A fresh connection, under the rules from its first byte."""
        tcp = BufferedTCP(stream, lambda wire: self.watch(wire, passage))
        if self.find(passage.address, passage.node) != CLEAR:
            tcp.take_wire()
        return tcp

    def identify(self, tcp: BufferedTCP, passage: Passage, node: bytes) -> None:
        """The other side has proved its key: rules about it hold from here on."""
        if passage.node is None and self.rules:
            passage.node = node
            self._apply(tcp.take_wire(), passage)
        passage.node = node

    def watch(self, wire: SocketWire, passage: Passage) -> None:
        """From now on the rules hold for what is sent on a wire."""
        self._wires[wire] = passage
        self._apply(wire, passage)

    def _apply(self, wire: SocketWire, passage: Passage) -> None:
        conditions = self.find(passage.address, passage.node)
        if conditions.silence is Silence.REFUSE:
            wire.reset()
        elif isinstance(wire.detour, LineDetour):
            wire.detour.change(conditions)
        elif conditions != CLEAR and not wire.is_closed:
            detour = LineDetour(wire, DelayLine(self._get_dice(passage.address, passage.node)))
            detour.change(conditions)
            wire.detour = detour
            self._tasks.start_soon(detour.run)

    def _get_dice(self, address: str, node: bytes | None) -> random.Random:
        peer = address if node is None else node.hex()
        if peer not in self._dice:
            if len(self._dice) >= DICE_MAX:
                del self._dice[next(iter(self._dice))]
            self._dice[peer] = random.Random(f"{self._seed}/{self._node.hex()}/{peer}")
        return self._dice[peer]


@dataclass(eq=False)
class LineDetour:
    """What is sent goes through a delay line, and from there to the socket. It ends itself once it is not needed."""

    wire: SocketWire
    line: DelayLine
    _wake: trio.Event = field(default_factory=trio.Event)
    _room: trio.Event = field(default_factory=trio.Event)
    _until_s: float = float("inf")

    def change(self, conditions: Conditions) -> None:
        self.line.change(conditions, trio.current_time())
        if self.line.lost_bytes and conditions.silence is not Silence.BLACKHOLE:
            self.wire.reset()  # a stream with a hole in it cannot go on
        self._wake.set()
        self._room.set()

    def send_some(self, data: memoryview) -> int:
        if self.wire.is_closed or self._until_s < float("inf"):
            raise BrokenPipeError("the connection was closed")
        taken = self.line.push(data, trio.current_time())
        self._wake.set()
        return taken

    async def wait_sendable(self) -> None:
        while not self.line.room and self.wire.detour is self and not self.wire.is_closed:
            self._room = trio.Event()
            await self._room.wait()
        await trio.lowlevel.checkpoint_if_cancelled()

    def close(self) -> None:
        self.line.finish(trio.current_time())
        self._until_s = trio.current_time() + LINGER_S_MAX
        self._wake.set()

    async def run(self) -> None:
        """Carry bytes until the way is clear and empty, or the connection is over. Never raises but Cancelled."""
        try:
            while not self.line.is_idle and not self.wire.is_closed:
                now_s = trio.current_time()
                if self.line.is_over(now_s) or now_s >= self._until_s:
                    break
                if due := self.line.peek(now_s):
                    await self._carry(due)
                    continue
                self._wake = trio.Event()
                with trio.move_on_at(min(self.line.get_due_s(), self._until_s)):
                    await self._wake.wait()
        except (OSError, trio.ClosedResourceError):
            self.wire.close_now()  # the other side is gone; whoever reads or writes here learns it from the socket
        finally:
            self.wire.detour = None
            self._room.set()
            if not self.line.is_idle:
                self.wire.close_now()

    async def _carry(self, due: bytes) -> None:
        sent = self.wire.send_now(memoryview(due))
        self.line.consume(sent)
        self._room.set()
        if sent < len(due):
            await self.wire.wait_writable()
        else:
            await trio.lowlevel.checkpoint()
