"""What one delivery costs the router as the network grows: `rolemesh bench scale`.

A network of each size runs on virtual time with the same degree, rate and message size. What a sample of its nodes was
given, event by event, is recorded; afterwards fresh routers with the same dice are given the same again, node by node,
and only that is timed: no queue of events, no other nodes, no foreign memory in the processor's caches. Sizes take
turns, a figure is the median of the rounds. What the simulated network took as a whole stands beside it: there all
nodes share one processor's caches and one heap, as no nodes do.
"""

import gc
import math
import random
import statistics
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2p.gossip_params import PARAMS
from p2p.gossipsub import Effect, Event, Publish, Router, Subscribe
from testnet.bench.figures import Figure, Note, compare
from testnet.gossip.network import TOPIC, Network, Node, accept

SIZES = (100, 300, 1_000)
FULL_SIZES = (100, 300, 1_000, 3_000, 10_000)
DEGREE = 10
SAMPLE = 48
WARM_MS = 4_000
RATE = 24
MESSAGES = 72
DATA_BYTES = 256
ROUNDS = 9
FLAT_WITHIN = 0.20


class Tape:
    """Stands before a router and notes what it is given."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.events: list[tuple[Event, int]] = []

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        self.events.append((event, now_ms))
        return self.router.handle(event, now_ms)


@dataclass
class Recording:
    """What the sampled nodes of one network were given. `network_us`: of the whole simulation, per delivery."""

    nodes: int
    seeds: list[str]
    events: list[list[tuple[Event, int]]]
    deliveries: int
    copies: float
    network_us: float


def record(nodes: int, note: Note) -> Recording:
    """Run one network and keep what its sampled nodes were given."""
    delays = random.Random(f"{nodes} delays")
    network = Network(lambda: delays.randint(23, 27))
    dice = random.Random(f"{nodes} network")
    chosen = set(dice.sample(range(nodes), SAMPLE))
    seeds, tapes = [], []
    for index in range(nodes):
        seed = f"{nodes} node {index}"
        node = Node(network, index, PARAMS, random.Random(seed))
        if index in chosen:
            tape = Tape(node.router)
            node.router = tape  # type: ignore[assignment]
            seeds.append(seed)
            tapes.append(tape)
        network.add(node, 100 + dice.randrange(PARAMS.heartbeat_ms))
        node.do(Subscribe(TOPIC, accept))
    for node in network.nodes:
        for other in dice.sample(network.nodes, DEGREE // 2):
            network.connect(node, other)
    network.run_until(WARM_MS)
    delivered = array("I", bytes(4 * nodes))

    def deliver(node: Node, data: bytes) -> None:
        delivered[node.index] += 1

    network.deliver = deliver
    note(f"{nodes} nodes: {MESSAGES} messages")
    gc.collect()
    gc.freeze()  # else the collector walks all routers again and again, which is nobody's cost
    began = time.process_time()
    for number in range(MESSAGES):
        network.run_until(WARM_MS + number * 1_000 // RATE)
        data = number.to_bytes(8, "big") + bytes(DATA_BYTES - 8)
        network.nodes[dice.randrange(nodes)].do(Publish(TOPIC, data))
    network.run_until(WARM_MS + (MESSAGES + RATE) * 1_000 // RATE)
    spent = time.process_time() - began
    gc.unfreeze()
    counts = [tape.router.get_counts()[TOPIC] for tape in tapes]
    deliveries = sum(count.delivered for count in counts)
    copies = sum(count.received for count in counts) / deliveries
    return Recording(nodes, seeds, [tape.events for tape in tapes], deliveries, copies, spent / sum(delivered) * 1e6)


def replay(recording: Recording) -> float:
    """Microseconds of processor time per delivery, of the sampled routers alone."""
    spent = 0.0
    for seed, events in zip(recording.seeds, recording.events, strict=True):
        router = Router(PARAMS, random.Random(seed))
        handle = router.handle
        warm = next(at for at, (_, now_ms) in enumerate(events) if now_ms > WARM_MS)
        for event, now_ms in events[:warm]:
            handle(event, now_ms)
        timed = events[warm:]
        began = time.process_time()
        for event, now_ms in timed:
            handle(event, now_ms)
        spent += time.process_time() - began
    return spent / recording.deliveries * 1e6


def measure(sizes: Sequence[int], note: Note) -> Iterator[tuple[Figure, Recording]]:
    """Each size beside the smallest."""
    recordings = [record(nodes, note) for nodes in sizes]
    spent: dict[int, list[float]] = {nodes: [] for nodes in sizes}
    gc.disable()
    try:
        for number in range(ROUNDS):
            note(f"round {number + 1} of {ROUNDS}")
            for recording in recordings:
                spent[recording.nodes].append(replay(recording))
            gc.collect()
    finally:
        gc.enable()
    least = statistics.median(spent[sizes[0]])
    for recording in recordings:
        value = statistics.median(spent[recording.nodes])
        yield compare(f"scale_{recording.nodes}", value, "us", f"{sizes[0]} nodes", least), recording


def is_flat(figures: Sequence[Figure]) -> bool:
    """Whether the dearest size costs at most 20 % more than the cheapest.

    >>> is_flat([compare("a", 10.0, "us", "x", 10.0), compare("b", 11.9, "us", "x", 10.0)])
    True
    """
    values = [figure.value for figure in figures]
    return max(values) <= min(values) * (1 + FLAT_WITHIN)


def draw(rows: Sequence[tuple[Figure, Recording]]) -> str:
    """An SVG of cost over size: the router's, and the whole simulation's."""
    width, height, left, bottom = 640, 360, 60, 50
    series = {
        "router alone": [(row.nodes, figure.value) for figure, row in rows],
        "whole simulation": [(row.nodes, row.network_us) for _, row in rows],
    }
    top = max(value for points in series.values() for _, value in points) * 1.15
    first, last = math.log10(rows[0][1].nodes), math.log10(max(rows[-1][1].nodes, rows[0][1].nodes * 10))

    def place(nodes: float, value: float) -> tuple[float, float]:
        x = left + (math.log10(nodes) - first) / (last - first) * (width - left - 30)
        return round(x, 1), round(height - bottom - value / top * (height - bottom - 30), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="18">processor time per delivery, µs, by nodes (degree {DEGREE}, {DATA_BYTES} B)</text>',
    ]
    for step in range(5):
        value = top * step / 4
        _, y = place(rows[0][1].nodes, value)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{width - 30}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{value:.0f}</text>')
    for _, row in rows:
        x, y = place(row.nodes, 0)
        parts.append(f'<text x="{x}" y="{y + 18}" text-anchor="middle">{row.nodes:,}</text>')
    for (name, points), colour, dash in zip(series.items(), ("#0a6", "#999"), ("none", "5 4"), strict=True):
        places = [place(*point) for point in points]
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[0]
        parts.append(f'<text x="{x + 8}" y="{y - 8}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
