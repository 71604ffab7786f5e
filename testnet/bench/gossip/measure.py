"""Gossip beside stock py-libp2p, js-libp2p and bare sockets, in one run: `rolemesh bench gossip`.

One to one is two processes on loopback. Rounds of the stacks take turns, a first one warms up, and a figure is the
median of its rounds. Everybody publishes in the same loop with as many messages under way; only what arrived counts.
"""

import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import trio

from testnet.bench import transport
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.gossip.peers import MESH_S, Pair, find_missing_js, open_mesh, open_pair
from testnet.bench.gossip.rounds import (
    FLOWS,
    MESH_NODES,
    Flow,
    find_highest_rate,
    run_burst,
    run_flow,
    run_mesh,
    run_paced,
)

LABELS = {
    "stock": "py-libp2p",
    "js": "js-libp2p",
    "raw": "raw trio TCP",
    "limit": "verify limit",
    "published": "published",
}
VERIFY_S = 0.3
PACE = 100.0  # messages a second of all sixteen together
SAMPLED_S = 5.0  # the timer ticks no oftener than the kernel: so long for some hundreds of samples
BURST = 1_000
BULK_BYTES = 65_536
RECEIVER = "receiver's time"


@dataclass(frozen=True)
class Plan:
    """How long to measure: the rounds of each stack, the seconds of one, and which stacks there are."""

    rounds: int
    seconds: float
    stacks: tuple[str, ...]
    tell: Note


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
                _warn(plan, flow.name, stack, result.share)
                rates.setdefault(stack, []).append(result.rate)
            if flow.policy == "envelope":
                limit = await pairs["ours"].receiver.ask("verify", seconds=VERIFY_S)
                rates.setdefault("limit", []).append(limit["per_s"])
        shares: dict[str, float] = {}
        if flow.is_sampled:
            shares = (await run_flow(pairs["ours"], flow, SAMPLED_S, is_sampled=True)).shares
    named = [compare(f"{flow.name}_share_{part}", share, "%", RECEIVER, 100.0) for part, share in shares.items()]
    return _beside(flow.name, rates, "msg/s") + named


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
                _warn(plan, "mesh_16", stack, result.share)
                rates.setdefault(stack, []).append(result.rate)
    return _beside("mesh_16", rates, "deliveries/s") + _beside("connect", connects, "ms")


async def measure_processes(plan: Plan) -> list[Figure]:
    """Sixteen processes, one stack after the other: 100 messages a second, and as many as get through."""
    p99s: dict[str, list[float]] = {}
    highest: dict[str, list[float]] = {}
    for stack in plan.stacks:
        if stack == "raw":
            continue
        plan.tell(f"processes_16: {LABELS.get(stack, stack)}")
        async with open_mesh(stack, 1, MESH_NODES, 201) as mesh:
            seconds = max(2.0, plan.seconds)
            await run_paced(mesh, PACE, seconds / 2)
            for _ in range(plan.rounds):
                paced = await run_paced(mesh, PACE, seconds)
                _warn(plan, "processes_16_p99", stack, paced.share)
                p99s.setdefault(stack, []).append(paced.p99_ms)
            highest[stack] = [await find_highest_rate(mesh, plan.rounds // 2, seconds)]
    return _beside("processes_16_p99", p99s, "ms") + _beside("processes_16_max", highest, "msg/s")


async def measure_burst(plan: Plan) -> list[Figure]:
    """A thousand messages published at once: how many arrive."""
    arrived: dict[str, list[float]] = {"published": [BURST]}
    for stack in plan.stacks:
        if stack != "raw":
            plan.tell(f"burst_1000: {LABELS.get(stack, stack)}")
            async with open_pair(stack, "nosign", 41) as pair:
                await trio.sleep(MESH_S)
                arrived[stack] = [await run_burst(pair, BURST) for _ in range(plan.rounds)]
    return _beside("burst_1000", arrived, "messages")


async def measure_bulk(plan: Plan) -> list[Figure]:
    """One stream written 64 KiB at a time between two processes."""
    rates: dict[str, list[float]] = {}
    async with AsyncExitStack() as opened:
        pairs = [
            await opened.enter_async_context(transport.open_pair(stack, number))
            for number, stack in enumerate(("ours", "stock"), 2)
        ]
        others = {}
        for stack in plan.stacks:
            if stack in ("js", "raw"):
                others[stack] = await opened.enter_async_context(open_pair(stack, "nosign", 51))
        for pair in pairs:
            await pair.flow(BULK_BYTES)
        for number in range(plan.rounds):
            plan.tell(f"bulk: round {number + 1} of {plan.rounds}")
            for pair in pairs:
                rate, _ = await pair.flow(BULK_BYTES)
                rates.setdefault(pair.stack, []).append(rate * BULK_BYTES / 1e6)
            for stack, other in others.items():
                rates.setdefault(stack, []).append(await _run_bulk(stack, other, plan.seconds))
    return _beside("bulk", rates, "MB/s")


async def _run_bulk(stack: str, pair: Pair, seconds: float) -> float:
    """MB a second. js-libp2p has streams too; a bare socket takes its messages for them, as many as it likes."""
    if stack == "raw":
        return (await run_flow(pair, Flow("bulk", BULK_BYTES, 1_000, "nosign", ()), seconds)).rate * BULK_BYTES / 1e6
    count = transport.MESSAGES["ours"][BULK_BYTES]
    name = pair.receiver.nodes[0]["name"]
    took_s = (await pair.sender.ask("bulk", name=name, size=BULK_BYTES, count=count))["seconds"]
    return float(count * BULK_BYTES / took_s / 1e6)


def _beside(name: str, values: dict[str, list[float]], unit: str) -> list[Figure]:
    """Ours beside each of the others."""
    medians = {stack: statistics.median(found) for stack, found in values.items()}
    ours = medians.pop("ours")
    return [compare(name, ours, unit, LABELS[stack], other) for stack, other in medians.items()]


def _warn(plan: Plan, name: str, stack: str, share: float) -> None:
    if share < 1:
        plan.tell(f"{name}: {LABELS.get(stack, stack)} lost {100 * (1 - share):.1f} %, which does not count")


# What is measured together, with the names of its figures.
GROUPS: tuple[tuple[Callable[[Plan], Awaitable[list[Figure]]], tuple[str, ...]], ...] = (
    *((partial(measure_flow, flow), (flow.name, *flow.share_names)) for flow in FLOWS),
    (measure_mesh, ("mesh_16", "connect")),
    (measure_processes, ("processes_16_p99", "processes_16_max")),
    (measure_burst, ("burst_1000",)),
    (measure_bulk, ("bulk",)),
)
NAMES = tuple(name for _, names in GROUPS for name in names)


def measure(tell: Note, is_full: bool = False, only: frozenset[str] = frozenset()) -> Iterator[Figure]:
    """Every figure, or those named, as they come."""
    stacks: tuple[str, ...] = ("ours", "stock", "js", "raw")
    if missing := find_missing_js():
        tell(f"NO FIGURES OF js-libp2p: {missing}")
        stacks = ("ours", "stock", "raw")
    plan = Plan(5, 5.0, stacks, tell) if is_full else Plan(3, 0.5, stacks, tell)
    for measure_group, names in GROUPS:
        if not only or only.intersection(names):
            yield from (figure for figure in trio.run(measure_group, plan) if not only or figure.name in only)
