"""The attacks of the gossipsub v1.1 evaluation, run on virtual time, and what honest peers noticed of them.

Honest peers connect and have `WARM_MS` to make their meshes, in silence; then messages flow for the measured time, all
of it under attack, and `COOL_MS` more pass for what is late. The clean run is the same network without the sybils.
Latency is one way, 25 ms +-10 % per link, as in libp2p/gossipsub-hardening; `"heavy"` has a long tail instead
(log-normal, median 25 ms, a tenth of the links beyond 60 ms).
"""

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from p2p.gossip_params import PARAMS
from p2p.gossipsub import GossipParams, Publish, TopicParams
from testnet.gossip.network import TOPIC, Network, Node
from testnet.gossip.sybils import Flood, Honest, Sybil

WARM_MS = 10_000
JOIN_MS = 5_000  # when sybils come to a network that is there already
COOL_MS = 6_000
PAYLOAD_BYTES = 2_048
PUBLISHER_BYTES = 8

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Scenario:
    """What the sybils do. They join at `join_ms` after the start, and behave for a share of the measured time."""

    name: str
    about: str
    join_ms: int = JOIN_MS
    behaves: float | None = None  # None: bad from the first moment
    targets: str = "all"  # or "one", "publishers"
    keeps: float = 0.0  # share of messages that sybils let through
    censors: bool = False
    flood: Flood | None = None  # of IHAVEs of messages that are not there
    addresses: int = 0  # that all sybils share; 0: each has its own


SCENARIOS = (
    Scenario("eclipse_one", "all sybils surround one peer, and forward nothing", targets="one"),
    Scenario("eclipse_publishers", "all sybils surround the publishers, and forward nothing", targets="publishers"),
    Scenario("censorship", "sybils forward all but one publisher's messages", censors=True),
    Scenario("degradation", "sybils forward half of what they get", keeps=0.5),
    Scenario("cold_boot", "sybils are there when the network starts, and forward nothing", join_ms=0),
    Scenario("covert_flash", "sybils are there from the start, behave, then stop at once", join_ms=0, behaves=1 / 3),
    Scenario("colocation", "sybils on four addresses, and forward nothing", addresses=4),
    Scenario("ihave_flood", "sybils advertise what is not there, and forward nothing", flood=Flood(10, 20)),
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How large a run is. `rate` is messages a second of all publishers together."""

    honest: int = 200
    sybils: int = 800
    publishers: int = 20
    rate: int = 24
    degree: int = 20
    sybil_degree: int = 100
    seconds: int = 60


@dataclass(frozen=True)
class Outcome:
    """What came of one run. Latencies are milliseconds from publish to delivery; shares lie between 0 and 1."""

    scenario: str
    sybils: int
    delivered: float
    p50_ms: int
    p99_ms: int
    max_ms: int
    copies: float  # packets with messages that honest peers received, per delivery
    sybil_mesh: float  # share of honest peers' mesh links that lead to sybils, at the end
    negative_s: float | None  # from the attack until half of the sybils were below 0 with a peer; None: never
    sent_kb_s: float  # by one honest peer, on average, under attack, of 1,000 bytes
    honest_blamed: int  # honest peers that an honest peer holds below 0 at the end
    trace: str


class Field:
    """One network with its recorder."""

    def __init__(
        self,
        size: Size,
        scenario: Scenario | None,
        seed: int,
        params: GossipParams,
        topic: TopicParams,
        latency: str,
    ) -> None:
        self.size = size
        self.scenario = scenario
        self._attack_ms = 0
        if scenario is not None:
            behaves = scenario.behaves
            self._attack_ms = scenario.join_ms if behaves is None else WARM_MS + int(size.seconds * 1_000 * behaves)
        self._dice = {what: random.Random(f"{seed} {what}") for what in ("net", "sybils", "delays", "publish")}
        delays = self._dice["delays"]
        heavy = latency == "heavy"
        self.network = Network(
            lambda: min(max(round(delays.lognormvariate(3.22, 0.7)), 2), 400) if heavy else delays.randint(23, 27)
        )
        self.network.deliver = self._deliver
        net = self._dice["net"]
        self.honest: list[Honest] = []
        for index in range(size.honest):
            dice = random.Random(f"{seed} node {index}")
            node = Honest(self.network, index, params, topic, dice, size.degree // 2)
            node.book = self.honest  # grows with the network
            self.network.add(node, 100 + net.randrange(params.heartbeat_ms))
            self.honest.append(node)
        self.publishers = self.honest[: size.publishers]
        for node in self.honest:
            for other in net.sample(self.honest, size.degree // 2):
                self.network.connect(node, other, f"10.{node.index >> 8}.{node.index & 255}.1")
        self.sybils = self._add_sybils(scenario, seed, params, topic) if scenario and size.sybils else []
        self.sent: list[int] = []  # ms, by message
        self.latencies: list[array[int]] = []  # by message

    def _add_sybils(self, scenario: Scenario, seed: int, params: GossipParams, topic: TopicParams) -> list[Sybil]:
        size, dice = self.size, self._dice["sybils"]
        sybils = []
        for number in range(size.sybils):
            index = size.honest + number
            address = number % scenario.addresses if scenario.addresses else number
            sybil = Sybil(
                self.network,
                index,
                params,
                topic,
                random.Random(f"{seed} node {index}"),
                attacks_ms=self._attack_ms,
                keeps=scenario.keeps,
                censored=name_publisher(0) if scenario.censors else None,
                flood=scenario.flood,
                group=f"11.0.{address >> 8}.{address & 255}",
            )
            targets = {"one": [self.honest[-1]], "publishers": self.publishers}.get(scenario.targets, self.honest)
            sybil.targets = dice.sample(targets, min(size.sybil_degree, len(targets)))
            self.network.add(sybil, scenario.join_ms + 100 + dice.randrange(params.heartbeat_ms))
            sybils.append(sybil)
        return sybils

    def _deliver(self, node: Node, data: bytes) -> None:
        if node.index < self.size.honest:
            number = int.from_bytes(data[PUBLISHER_BYTES : PUBLISHER_BYTES + 4], "big")
            self.latencies[number].append(self.network.now_ms - self.sent[number])

    def run(self, tell: Tell) -> Outcome:
        """Warm up, publish, wait for what is late."""
        size, network, dice = self.size, self.network, self._dice["publish"]
        if self.scenario:
            network.run_until(self.scenario.join_ms)
            for sybil in self.sybils:
                sybil.dial()
        network.run_until(WARM_MS)
        sent_before = sum(node.sent_bytes for node in self.honest)
        filler = bytes(PAYLOAD_BYTES - PUBLISHER_BYTES - 4)
        negative: dict[int, int] = {}
        for number in range(size.seconds * size.rate):
            network.run_until(WARM_MS + number * 1_000 // size.rate)
            if number % (5 * size.rate) == 0:
                tell(f"{number // size.rate} of {size.seconds} s")
                self._note_negative(negative)
            publisher = dice.randrange(len(self.publishers))
            self.sent.append(network.now_ms)
            self.latencies.append(array("I"))
            data = name_publisher(publisher) + number.to_bytes(4, "big") + filler
            self.publishers[publisher].do(Publish(TOPIC, data))
        network.run_until(WARM_MS + size.seconds * 1_000 + COOL_MS)
        self._note_negative(negative)
        sent = sum(node.sent_bytes for node in self.honest) - sent_before
        return self._sum_up(negative, sent / size.honest / (size.seconds + COOL_MS / 1_000) / 1_000)

    def _note_negative(self, negative: dict[int, int]) -> None:
        for sybil in self.sybils:
            if sybil.index not in negative:
                for node in sybil.targets:
                    if sybil.key in node.graylisted or node.router.get_score(sybil.key) < 0:
                        negative[sybil.index] = self.network.now_ms
                        break

    def _sum_up(self, negative: dict[int, int], sent_kb_s: float) -> Outcome:
        size = self.size
        latencies = sorted(value for some in self.latencies for value in some)
        expected = len(self.sent) * (size.honest - 1)
        known = {node.key for node in self.honest}
        mesh = [peer for node in self.honest for peer in node.router.get_mesh(TOPIC)]
        counts = [node.router.get_counts()[TOPIC] for node in self.honest]
        half = sorted(negative.values())[(len(self.sybils) - 1) // 2 :]
        trace = sha256(b"".join(some.tobytes() for some in self.latencies)).hexdigest()[:16]
        return Outcome(
            scenario=self.scenario.name if self.scenario else "clean",
            sybils=len(self.sybils),
            delivered=len(latencies) / expected,
            p50_ms=pick_quantile(latencies, 0.5),
            p99_ms=pick_quantile(latencies, 0.99),
            max_ms=latencies[-1],
            copies=sum(count.received for count in counts) / max(sum(count.delivered for count in counts), 1),
            sybil_mesh=sum(peer not in known for peer in mesh) / max(len(mesh), 1),
            negative_s=(half[0] - self._attack_ms) / 1_000 if self.sybils and half else None,
            sent_kb_s=round(sent_kb_s, 1),
            honest_blamed=sum(
                node.router.get_score(peer) < 0 for node in self.honest for peer in node.links if peer in known
            ),
            trace=trace,
        )


def name_publisher(number: int) -> bytes:
    """What a publisher's messages begin with: 8 bytes."""
    return b"pub%05d" % number


def pick_quantile(values: list[int], share: float) -> int:
    """The value that `share` of all sorted values do not exceed.

    >>> pick_quantile([1, 2, 3, 4], 0.5)
    2
    """
    return values[max(-int(-share * len(values) // 1) - 1, 0)]


def run_scenario(
    scenario: Scenario | None,
    size: Size,
    seed: int,
    tell: Tell = lambda text: None,
    *,
    params: GossipParams = PARAMS,
    topic: TopicParams | None = None,
    latency: str = "narrow",
) -> Outcome:
    """One run, or the clean one without a scenario. The same seed gives the same outcome, trace included."""
    return Field(size, scenario, seed, params, topic or TopicParams(), latency).run(tell)
