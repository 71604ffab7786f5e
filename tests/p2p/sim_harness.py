"""Simulated nets for the conformance suite: one kernel, one fabric, virtual time."""

from collections.abc import Callable
from typing import cast

from p2p.net import NetEvent
from testnet.kernel import Kernel
from testnet.sim_links import Fabric
from testnet.sim_net import SimNet
from tests.p2p.conformance import Member

SEED = 5


class SimHarness:
    """See `tests.p2p.conformance`."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._kernel = Kernel(SEED)
        self._fabric = Fabric(self._kernel)
        self._pairs: list[tuple[int, int]] = []

    def make_nets(self, count: int, pairs: list[tuple[int, int]] | None = None) -> list[Member]:
        self._pairs = pairs if pairs is not None else [(i, j) for i in range(count) for j in range(i)]
        for index in range(count):
            events: list[NetEvent] = []
            self.members.append(Member(self._attach(index, events), events))
        for index in range(count):
            self._tell(index)
        return self.members

    def _attach(self, index: int, events: list[NetEvent]) -> SimNet:
        return self._fabric.attach(f"host-{index}", bytes([index + 1]) * 32, events.append)

    def _tell(self, index: int) -> None:
        for pair in self._pairs:
            if index in pair:
                other = cast(SimNet, self.members[pair[0] + pair[1] - index].net)
                self.members[index].net.learn(other.node, (other.address,))

    def run_until(self, predicate: Callable[[], bool], timeout_ms: int) -> bool:
        return self._kernel.run_until(self._kernel.now_ms + timeout_ms, predicate)

    def stop(self, index: int) -> None:
        self._fabric.detach(cast(SimNet, self.members[index].net))

    def start_again(self, index: int) -> None:
        self.members[index].net = self._attach(index, self.members[index].events)
        self._tell(index)

    def close(self) -> None:
        """Nothing outlives the objects."""
