"""One round of each kind: messages one to one, among the nodes of one process, on time among many, and in a burst."""

import itertools
import time
from dataclasses import dataclass

import trio

from testnet.bench.gossip.peers import Mesh, Pair, ask_all
from testnet.bench.gossip.shares import NAMES as SHARES


@dataclass(frozen=True)
class Flow:
    """Messages from one process to another: what they are like, how many may be under way, and which stacks can."""

    name: str
    size: int
    window: int
    policy: str
    stacks: tuple[str, ...]
    is_sampled: bool = False

    @property
    def share_names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_share_{part}" for part in SHARES) if self.is_sampled else ()


FLOWS = (
    Flow("one_to_one_256", 256, 256, "nosign", ("ours", "stock", "js", "raw"), is_sampled=True),
    Flow("one_to_one_256_envelope", 256, 256, "envelope", ("ours",)),
    Flow("one_to_one_256_signed", 256, 256, "sign", ("ours", "stock", "js")),
    Flow("one_to_one_60k", 60 * 1_024, 32, "nosign", ("ours", "stock", "js", "raw")),
)
PATIENCE_S = 3.0  # after the last message was published, when what is missing counts as lost
POLL_S = 0.02
HEAD_START_NS = 300_000_000
FIRST_RATE, LEAST_RATE, HIGHEST_RATE = 100.0, 12.0, 20_000.0
LATE_MS = 1_000.0
MESH_NODES = 16
MESH_WINDOW = 64
MESSAGES_MAX = 1_000_000


@dataclass(frozen=True)
class Result:
    """What a round gave: deliveries a second of those delivered, and the share of all that were."""

    rate: float
    share: float
    shares: dict[str, float]


_rounds = itertools.count(1)


async def run_flow(pair: Pair, flow: Flow, seconds: float, is_sampled: bool = False) -> Result:
    """One round from the sender to the receiver."""
    round_ = {"number": next(_rounds), "size": flow.size}
    tell_every = max(1, flow.window // 8)
    port = (await pair.receiver.ask("expect", tell_every=tell_every, is_sampled=is_sampled, **round_))["port"]
    sent = await pair.sender.ask(
        "flow", seconds=seconds, messages=MESSAGES_MAX, window=flow.window, port=port, **round_
    )
    spent = await pair.receiver.ask("spent")
    return Result(spent["delivered"] / sent["seconds"], spent["delivered"] / sent["sent"], spent["shares"])


async def run_mesh(mesh: Mesh, seconds: float) -> Result:
    """One round in one process, its nodes publishing in turn."""
    (peer,) = mesh.peers
    listeners = len(peer.nodes) - 1
    round_ = {"number": next(_rounds), "size": 256, "listeners": listeners}
    sent = await peer.ask("flow", seconds=seconds, messages=MESSAGES_MAX, window=MESH_WINDOW, **round_)
    return Result(sent["delivered"] / sent["seconds"], sent["delivered"] / (sent["sent"] * listeners), {})


async def run_burst(pair: Pair, messages: int) -> int:
    """How many arrived of so many published at once."""
    round_ = {"number": next(_rounds), "size": 256}
    port = (await pair.receiver.ask("expect", tell_every=100, **round_))["port"]
    asked = {"seconds": 60, "messages": messages, "window": messages, "is_burst": True}
    await pair.sender.ask("flow", port=port, **asked, **round_)
    return int((await pair.receiver.ask("spent"))["delivered"])


@dataclass(frozen=True)
class Paced:
    """What a round at a set rate gave: the share that arrived, and how late 99 % of that was at most.

    Latencies count from when a message was due; where nothing came, they are as long as we waited.
    """

    share: float
    p99_ms: float


async def run_paced(mesh: Mesh, rate: float, seconds: float, size: int = 256) -> Paced:
    """One round at so many messages a second in total, the processes taking turns."""
    number, count = next(_rounds), max(len(mesh.peers), int(rate * seconds))
    expected = count * (len(mesh.peers) - 1)
    await ask_all(mesh.peers, "expect", lambda place: {"number": number, "size": size, "is_timed": True})
    start_ns = time.monotonic_ns() + HEAD_START_NS

    def share_out(place: int) -> dict[str, object]:
        seqs = list(range(place, count, len(mesh.peers)))
        return {"number": number, "size": size, "seqs": seqs, "start_ns": start_ns, "every_ns": int(1e9 / rate)}

    await ask_all(mesh.peers, "pace", share_out)
    ends = trio.current_time() + PATIENCE_S
    while trio.current_time() < ends:
        counts = await ask_all(mesh.peers, "count", lambda place: {})
        if sum(answer["delivered"] for answer in counts) >= expected:
            break
        await trio.sleep(POLL_S)
    spent = await ask_all(mesh.peers, "spent", lambda place: {})
    latencies = sorted(itertools.chain.from_iterable(answer["latencies_ms"] for answer in spent))
    if not latencies:
        return Paced(0.0, 1_000 * PATIENCE_S)
    return Paced(len(latencies) / expected, latencies[int(0.99 * len(latencies))])


async def find_highest_rate(mesh: Mesh, steps: int, seconds: float) -> float:
    """Messages a second at which everything arrives and 99 % within LATE_MS: beyond, queues only grow.

    Twice the rate until that fails, then `steps` halvings of what is left between, on a scale of ratios.
    """
    good, bad = 0.0, 0.0
    rate = FIRST_RATE
    while steps and LEAST_RATE <= rate <= HIGHEST_RATE:
        paced = await run_paced(mesh, rate, seconds)
        if paced.share == 1 and paced.p99_ms <= LATE_MS:
            good = rate
        else:
            bad = rate
        if good and bad:
            rate = (good * bad) ** 0.5
            steps -= 1
        else:
            rate = 2 * good or bad / 2
    return good
