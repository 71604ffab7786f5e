"""What lies between simulated hosts: ways with their delays and faults, each with a seeded generator of its own.

Gossip messages may be lost before they are sent, or sent twice (`sim_pipe`). Streams resend what is lost, so for them
loss is delay; they break when the connection does. A connection outlives silence by SILENCE_MS, as on real sockets.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from p2p.delay_line import CLEAR, Conditions, Silence
from p2p.net import NetEvent
from protocol.errors import LocalError
from protocol.types import BP
from testnet.fault_kinds import lasts
from testnet.faults import Crash, FaultPlan
from testnet.kernel import Callback, Kernel
from testnet.sim_pipe import Pipe
from testnet.sim_way import Way

if TYPE_CHECKING:
    from testnet.sim_net import SimNet

RESEND_MS = 200
SILENCE_MS = 45_000  # as `p2p.muxed` waits for a connection that says nothing
HOSTS_MAX = 1_024


class Fabric:
    """All hosts of one simulated network and the links between them."""

    def __init__(self, kernel: Kernel, plan: FaultPlan | None = None) -> None:
        self.kernel = kernel
        self.plan = FaultPlan() if plan is None else plan
        self._hosts: dict[str, SimNet] = {}  # by name, those that are up
        self._names: dict[str, str] = {}  # address -> name
        self._dice: dict[tuple[str, str], random.Random] = {}
        self._starts: dict[str, int] = {}  # how often each host came up
        self._filled: list[Pipe] = []  # pipes with something to send, to be sent when this millisecond ends
        self._ways: dict[Way, None] = {}  # of living connections, oldest first
        self._conditions: dict[tuple[str, str], Conditions] = {}  # as they are until the next change
        self._paused: dict[str, int] = {}  # until when, 0 for ever
        for named in self.plan.list_faults():
            if isinstance(named.fault, Crash):
                continue
            for since_ms in (named.start_ms, named.end_ms, named.start_ms + SILENCE_MS):
                kernel.at(kernel.start_ms + since_ms, self._change)

    def attach(self, name: str, node: bytes, sink: Callable[[NetEvent], None]) -> "SimNet":
        """Bring up the host called `name`. It keeps its address when it comes back after `detach`."""
        from testnet.sim_net import SimNet

        if name in self._hosts:
            raise LocalError(f"host {name} is up already")
        address = self.assign_address(name)
        net = SimNet(self, name, node, address, sink)
        self._hosts[name] = net
        return net

    def detach(self, net: "SimNet") -> None:
        """The host is gone at once; its peers notice when the news could have reached them."""
        net.close()
        del self._hosts[net.name]

    def assign_address(self, name: str) -> str:
        """The multiaddr of a host of this name, up or not."""
        for address, owner in self._names.items():
            if owner == name:
                return address
        if len(self._names) >= HOSTS_MAX:
            raise LocalError(f"a simulated network has at most {HOSTS_MAX} hosts")
        index = len(self._names) + 1
        address = f"/ip4/127.0.{index >> 8}.{index & 255}/tcp/4001"
        self._names[address] = name
        return address

    def find_host(self, address: str) -> "SimNet | None":
        """The host that listens on an address now."""
        return self._hosts.get(self._names.get(address, ""))

    # What the plan says

    def get_conditions(self, source: str, target: str) -> Conditions:
        """How the way between two hosts is now, beyond what the plan says of all ways."""
        if not self.plan.partitions and not self.plan.links:
            return CLEAR
        found = self._conditions.get((source, target))
        if found is None:
            found = self.plan.get_conditions(source, target, self._elapsed_ms)
            self._conditions[source, target] = found
        return found

    def get_silence(self, one: str, other: str) -> Silence:
        """Why no handshake between two hosts succeeds now: it needs both ways, and both awake."""
        if self.is_paused(one) or self.is_paused(other):
            return Silence.STALL
        return max(self.get_conditions(one, other).silence, self.get_conditions(other, one).silence)

    def is_paused(self, name: str) -> bool:
        return name in self._paused

    def defer(self, name: str, callback: Callback, *args: object) -> bool:
        """Whether a host stands still: then this is called when it goes on, if ever."""
        until_ms = self._paused.get(name)
        if until_ms is None:
            return False
        if until_ms:
            self.kernel.at(self.kernel.start_ms + until_ms, callback, *args)
        return True

    @property
    def _elapsed_ms(self) -> int:
        return self.kernel.now_ms - self.kernel.start_ms

    def _change(self) -> None:
        """Something in the plan has begun or ended, or lasts so long that connections notice."""
        now_ms = self.kernel.now_ms
        self._conditions.clear()
        self._paused = {each.node: each.end_ms for each in self.plan.pauses if lasts(each, self._elapsed_ms)}
        for way in tuple(self._ways):
            way.change()
        for way in tuple(self._ways):
            silence = way.conditions.silence
            is_given_up = way.silent_ms is not None and now_ms - way.silent_ms >= SILENCE_MS
            if silence is Silence.REFUSE or is_given_up or (silence is Silence.NONE and way.has_lost):
                way.target.unlink(way.source)
                way.source.unlink(way.target)

    # Ways

    def open_way(self, source: "SimNet", target: "SimNet") -> Way:
        way = Way(self, source, target)
        self._ways[way] = None
        way.change()
        return way

    def forget_way(self, way: Way) -> None:
        self._ways.pop(way, None)

    def draw_dice(self, name: str) -> random.Random:
        """For the router of a host that comes up: others each time, as a new process has."""
        self._starts[name] = self._starts.get(name, 0) + 1
        return self.kernel.random(f"gossip/{name}/{self._starts[name]}")

    def draw_delay_ms(self, source: "SimNet", target: "SimNet") -> int:
        """How long something small takes from one host to another, if it comes through."""
        dice, late = self.get_dice(source.name, target.name), self.get_conditions(source.name, target.name)
        delay_ms = self.plan.latency_ms + late.delay_ms + dice.randrange(self.plan.jitter_ms + 1)
        return delay_ms + dice.randrange(late.jitter_ms + 1) if late.jitter_ms else delay_ms

    def flush_later(self, pipe: Pipe) -> None:
        """Let a pipe send when this millisecond ends, so that one packet holds all of it."""
        if not self._filled:
            self.kernel.after(0, self._flush)
        self._filled.append(pipe)

    def _flush(self) -> None:
        filled, self._filled = self._filled, []
        for pipe in filled:
            pipe.flush()

    def carry_stream(self, source: "SimNet", target: "SimNet", size: int, arrive: Callable[[], None]) -> None:
        """Run `arrive` at the target once `size` bytes are through, unless the connection breaks before."""
        way = source.get_way(target.node)
        late_ms = 0
        while self.plan.loss_bp and way.dice.randrange(BP) < min(self.plan.loss_bp, BP - 1):
            late_ms += RESEND_MS
        way.send(size, arrive, late_ms=late_ms)

    def get_dice(self, source: str, target: str) -> random.Random:
        """The dice of one direction."""
        dice = self._dice.get((source, target))
        if dice is None:
            dice = self._dice[source, target] = self.kernel.random(f"link/{source}/{target}")
        return dice
