"""The node under attack, in a process of its own. It does what `commands` say and reports what became of it."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection

import trio

from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import Asked, Delivered, NetEvent
from tests.p2p.attacks import scene
from tests.p2p.attacks.meter import Meter

WATCH_S = 0.02


@dataclass
class Report:
    """What the victim saw. Times are of the monotonic clock, which all processes share."""

    longest_turn_ms: float = 0.0
    growth_mb: float = 0.0
    published: int = 0
    delivered: dict[str, list[int]] = field(default_factory=dict, repr=False)  # by topic, in order of arrival
    refused_at: dict[str, float] = field(
        default_factory=dict
    )  # when a stranger at an IP was first graylisted or banned
    shut_at: dict[str, float] = field(default_factory=dict)  # when an IP first got no handshake any more
    faults: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    strangers: int = 0  # connected now
    neighbours: int = 0  # topics the honest peer is heard to be on
    answered: int = 0


class Victim:
    """One node with an honest life."""

    def __init__(self, net: Libp2pNet, report: Report) -> None:
        self._net = net
        self._report = report
        self.is_speaking = False

    async def speak(self) -> None:
        next_s = trio.current_time()
        while True:
            next_s += 1 / scene.RATE_PER_S
            await trio.sleep_until(next_s)
            if self.is_speaking:
                self._net.publish(scene.TOPIC, scene.write_honest(scene.VICTIM_SEED, self._report.published), "")
                self._report.published += 1

    async def watch_strangers(self) -> None:
        """Note when each of them is graylisted or banned, and when its address is shut out."""
        gossip, bans, report = self._net._gossip, self._net.guard.bans, self._report
        threshold = gossip._params.score.graylist_threshold
        while True:
            await trio.sleep(WATCH_S)
            now_s, now_ms = time.monotonic(), self._net.guard.now_ms()
            report.strangers = sum(link.address.startswith(scene.ATTACKER_NET) for link in self._net.links())
            for node, place in list(bans._places.items()):
                if gossip.router.get_score(node) < threshold or bans.is_banned(node, now_ms):
                    report.refused_at.setdefault(place.partition("/")[0], now_s)
            for number in range(1, scene.ATTACKERS_MAX + 1):
                address = f"{scene.ATTACKER_NET}.{number}"
                if bans.check_address(address, now_ms):
                    report.shut_at.setdefault(address, now_s)

    def take(self, event: NetEvent) -> None:
        if isinstance(event, Delivered):
            number = scene.read_honest(scene.HONEST_SEED, event.data)
            if number is not None:
                self._report.delivered.setdefault(event.topic, []).append(number)
        elif isinstance(event, Asked):
            self._report.answered += 1
            self._net.reply(event.token, bytes(scene.BIG_BYTES) if event.data == scene.BIG else event.data)


async def live(connection: Connection, meter: Meter) -> None:
    report = Report()
    sink: list[Victim] = []
    options = NetOptions(limits=scene.LIMITS, topics=scene.TOPICS)
    async with (
        open_libp2p_net(scene.VICTIM_SEED, scene.VICTIM_IP, 0, lambda event: sink[0].take(event), options) as net,
        trio.open_nursery() as nursery,
    ):
        victim = Victim(net, report)
        sink.append(victim)
        net.subscribe(scene.TOPIC, scene.judge_envelope)
        net.subscribe(scene.SIGNED_TOPIC, scene.judge_envelope)
        for protocol in scene.PROTOCOLS:
            net.serve(protocol)
        nursery.start_soon(victim.speak)
        nursery.start_soon(victim.watch_strangers)
        connection.send((net.node, net.addresses))
        while True:
            await trio.lowlevel.wait_readable(connection.fileno())
            command = connection.recv()
            if command == "mark":
                meter.mark()
                connection.send(None)
            elif command == "stop":
                break
            elif command == "report":
                growth_mb = meter.get_growth_mb()
                connection.send(
                    replace(
                        report,
                        longest_turn_ms=1_000 * meter.longest_s,
                        growth_mb=growth_mb,
                        neighbours=sum(bool(net.subscribers(topic)) for topic in (scene.TOPIC, scene.SIGNED_TOPIC)),
                        faults=[why for _, why in net.faults()],
                        refused=dict(net.refusals()),
                        sizes=dict(net.gossip_sizes()),
                    )
                )
            else:
                victim.is_speaking = command == "speak"
        nursery.cancel_scope.cancel()


def main(connection: Connection, patience: Mapping[str, float]) -> None:
    """`patience` are constants of our modules by full name: a test cannot wait as long as a node does."""
    for name, value in patience.items():
        module, _, constant = name.rpartition(".")
        assert hasattr(sys.modules[module], constant), name
        setattr(sys.modules[module], constant, value)
    meter = Meter()
    trio.run(live, connection, meter, instruments=[meter])
