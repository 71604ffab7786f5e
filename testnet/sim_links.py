"""What lies between simulated hosts: connections, delays, losses, partitions, by one seeded generator per direction.

Gossip messages may be lost before they are sent, or sent twice (`sim_pipe`). Streams resend what is lost, so for them
loss is delay; they break when the connection does. A connection outlives a partition by SILENCE_MS, as a host takes a
while to notice.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from p2p.net import NetEvent
from protocol.errors import LocalError
from protocol.types import BP
from testnet.faults import FaultPlan
from testnet.kernel import Kernel
from testnet.sim_pipe import RESEND_MS, Pipe

if TYPE_CHECKING:
    from testnet.sim_net import SimNet

SILENCE_MS = 2_000
HOSTS_MAX = 1_024


class Fabric:
    """All hosts of one simulated network and the links between them."""

    def __init__(self, kernel: Kernel, plan: FaultPlan | None = None) -> None:
        self.kernel = kernel
        self.plan = FaultPlan() if plan is None else plan
        self._hosts: dict[str, SimNet] = {}  # by name, those that are up
        self._names: dict[str, str] = {}  # address -> name
        self._links: dict[tuple[str, str], random.Random] = {}
        self._starts: dict[str, int] = {}  # how often each host came up
        self._filled: list[Pipe] = []  # pipes with something to send, to be sent when this millisecond ends
        for cut in self.plan.partitions:
            kernel.at(kernel.start_ms + cut.start_ms + SILENCE_MS, self._notice_silence)

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

    def is_cut(self, one: "SimNet", other: "SimNet") -> bool:
        if not self.plan.partitions:
            return False
        return self.plan.separates(one.name, other.name, self.kernel.now_ms - self.kernel.start_ms)

    def draw_dice(self, name: str) -> random.Random:
        """For the router of a host that comes up: others each time, as a new process has."""
        self._starts[name] = self._starts.get(name, 0) + 1
        return self.kernel.random(f"gossip/{name}/{self._starts[name]}")

    def draw_delay_ms(self, source: "SimNet", target: "SimNet") -> int:
        return self.plan.latency_ms + self.get_link(source, target).randrange(self.plan.jitter_ms + 1)

    def flush_later(self, pipe: Pipe) -> None:
        """Let a pipe send when this millisecond ends, so that one packet holds all of it."""
        if not self._filled:
            self.kernel.after(0, self._flush)
        self._filled.append(pipe)

    def _flush(self) -> None:
        filled, self._filled = self._filled, []
        for pipe in filled:
            pipe.flush()

    def carry_stream(self, source: "SimNet", target: "SimNet", arrive: Callable[[], None]) -> None:
        """Run `arrive` at the target once the bytes are through, unless the connection breaks before."""
        delay_ms = self.draw_delay_ms(source, target)
        link = self.get_link(source, target)
        while self.plan.loss_bp and link.randrange(BP) < min(self.plan.loss_bp, BP - 1):
            delay_ms += RESEND_MS
        self.kernel.after(delay_ms, self._arrive_stream, source, target, arrive)

    def _arrive_stream(self, source: "SimNet", target: "SimNet", arrive: Callable[[], None]) -> None:
        if target.is_closed or not target.is_linked(source):
            return
        if self.is_cut(source, target):
            self.kernel.after(RESEND_MS, self._arrive_stream, source, target, arrive)
            return
        arrive()

    def _notice_silence(self) -> None:
        for net in tuple(self._hosts.values()):
            for peer in net.linked:
                if self.is_cut(net, peer):
                    net.unlink(peer)
                    peer.unlink(net)

    def get_link(self, source: "SimNet", target: "SimNet") -> random.Random:
        """The dice of one direction."""
        key = source.name, target.name
        link = self._links.get(key)
        if link is None:
            link = self._links[key] = self.kernel.random(f"link/{source.name}/{target.name}")
        return link
