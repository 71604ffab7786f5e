"""Gossip beside stock py-libp2p, js-libp2p and bare sockets, in one run: `rolemesh bench gossip`.

One to one is two processes on loopback. Rounds of the stacks take turns, a first one warms up, and a figure is the
median of its rounds. Everybody publishes in the same loop with as many messages under way; only what arrived counts.
"""

import itertools
import statistics
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import trio

from testnet.bench.figures import Figure, Note, compare
from testnet.bench.gossip.peers import MESH_S, Mesh, Pair, find_missing_js, open_mesh, open_pair

LABELS = {"stock": "py-libp2p", "js": "js-libp2p", "raw": "raw trio TCP", "limit": "verify limit"}
VERIFY_S = 0.3


@dataclass(frozen=True)
class Plan:
    """How long to measure: the rounds of each stack, the seconds of one, and which stacks there are."""

    rounds: int
    seconds: float
    stacks: tuple[str, ...]
    tell: Note


@dataclass(frozen=True)
class Flow:
    """Messages from one process to another: what they are like, how many may be under way, and which stacks can."""

    name: str
    size: int
    window: int
    policy: str
    stacks: tuple[str, ...]


FLOWS = (
    Flow("one_to_one_256", 256, 256, "nosign", ("ours", "stock", "js", "raw")),
    Flow("one_to_one_256_envelope", 256, 256, "envelope", ("ours",)),
    Flow("one_to_one_256_signed", 256, 256, "sign", ("ours", "stock", "js")),
    Flow("one_to_one_60k", 60 * 1_024, 32, "nosign", ("ours", "stock", "js", "raw")),
)
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


async def measure_flow(flow: Flow, plan: Plan) -> list[Figure]:
    """Messages a second from one process to another."""
    rates: dict[str, list[float]] = {}
    async with AsyncExitStack() as opened:
        pairs = {}
        for place, stack in enumerate(name for name in flow.stacks if name in plan.stacks):
            pairs[stack] = await opened.enter_async_context(open_pair(stack, flow.policy, 2 * place + 1))
        await trio.sleep(MESH_S)
        for pair in pairs.values():
            await run_flow(pair, flow, plan.seconds / 2)
        for number in range(plan.rounds):
            plan.tell(f"{flow.name}: round {number + 1} of {plan.rounds}")
            for stack, pair in pairs.items():
                result = await run_flow(pair, flow, plan.seconds)
                rates.setdefault(stack, []).append(_warn(plan, flow.name, stack, result).rate)
            if flow.policy == "envelope":
                limit = await pairs["ours"].receiver.ask("verify", seconds=VERIFY_S)
                rates.setdefault("limit", []).append(limit["per_s"])
    return _beside(flow.name, rates, "msg/s")


async def measure_mesh(plan: Plan) -> list[Figure]:
    """Sixteen nodes in one process: deliveries a second, and what connecting them took."""
    rates: dict[str, list[float]] = {}
    connects: dict[str, list[float]] = {}
    async with AsyncExitStack() as opened:
        meshes = {}
        for stack in plan.stacks:
            if stack != "raw":
                meshes[stack] = await opened.enter_async_context(open_mesh(stack, MESH_NODES, 1, 101))
                connects[stack] = meshes[stack].connect_ms
        for mesh in meshes.values():
            await run_mesh(mesh, plan.seconds / 2)
        for number in range(plan.rounds):
            plan.tell(f"mesh_16: round {number + 1} of {plan.rounds}")
            for stack, mesh in meshes.items():
                result = await run_mesh(mesh, plan.seconds)
                rates.setdefault(stack, []).append(_warn(plan, "mesh_16", stack, result).rate)
    return _beside("mesh_16", rates, "deliveries/s") + _beside("connect", connects, "ms")


def _beside(name: str, values: dict[str, list[float]], unit: str) -> list[Figure]:
    """Ours beside each of the others."""
    medians = {stack: statistics.median(found) for stack, found in values.items()}
    ours = medians.pop("ours")
    return [compare(name, ours, unit, LABELS[stack], other) for stack, other in medians.items()]


def _warn(plan: Plan, name: str, stack: str, result: Result) -> Result:
    if result.share < 1:
        plan.tell(f"{name}: {LABELS.get(stack, stack)} lost {100 * (1 - result.share):.1f} %, which does not count")
    return result


async def measure_group(group: str, plan: Plan) -> list[Figure]:
    """The figures that are measured together."""
    flows = {flow.name: flow for flow in FLOWS}
    return await measure_mesh(plan) if group == "mesh_16" else await measure_flow(flows[group], plan)


# What is measured together, by the names of its figures.
GROUPS: dict[str, tuple[str, ...]] = {**{flow.name: (flow.name,) for flow in FLOWS}, "mesh_16": ("mesh_16", "connect")}
NAMES = tuple(name for names in GROUPS.values() for name in names)


def measure(tell: Note, is_full: bool = False, only: frozenset[str] = frozenset()) -> Iterator[Figure]:
    """Every figure, or those named, as they come."""
    stacks: tuple[str, ...] = ("ours", "stock", "js", "raw")
    if missing := find_missing_js():
        tell(f"NO FIGURES OF js-libp2p: {missing}")
        stacks = ("ours", "stock", "raw")
    plan = Plan(5, 5.0, stacks, tell) if is_full else Plan(3, 1.0, stacks, tell)
    for group, names in GROUPS.items():
        if not only or only.intersection(names):
            for figure in trio.run(measure_group, group, plan):
                if not only or figure.name in only:
                    yield figure
