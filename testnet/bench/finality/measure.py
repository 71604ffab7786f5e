"""The figures: how many transfers a second four validators make final, and how soon."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import trio

from roles.node import unwrap
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.finality.client import Client, open_client
from testnet.bench.finality.network import VALIDATORS, NotReady, Validators, run_validators
from testnet.bench.finality.purse import Purse

NAMES = ("transfers", "finality_p50", "finality_p99", "finality_p99_busy")
SECONDS, SECONDS_FULL = 8.0, 60.0
WARM_S = 2.0  # of each phase, and does not count
LIGHT_PER_S = 10.0  # transfers of others, one a message, at moments of their own
BUSY_SHARE = 0.8  # of what the network can take
WINDOW = 2_048  # under way at once: two full blocks, one being decided while the next gathers
UNDER_WAY_MAX = 8_192  # of what comes whatever the network does: mempools hold no more, wallets wait with the rest
BATCH = 64  # transfers in a message, when there are many
GATHER_S = 0.05  # so long transfers wait for others to share a message with, when there are many
PER_S_MAX = 4_000  # more is not signed beforehand
DRAIN_S = 10.0
BLOCKS_MIN = 2  # to count by, however slow the machine is
BLOCKS_S = 30.0  # for those
POLL_S = 0.05
LIMIT, LIMIT_WAY = "ed25519 verify", "its signatures"
# One after another on a transfer's way: its envelope's and its own; the proposal's; two votes of others to notarise and
# two to finalise; three of a certificate in the head, whose envelope is signed too, and three with the block, likewise.
SIGNATURES_ON_ITS_WAY = 15


@dataclass(frozen=True)
class Flow:
    """What came of a phase with as much as the network takes. Times in seconds, shares in percent."""

    latencies_s: list[float]
    took_s: float
    blocks: int
    validators_cpu_s: float
    client_cpu_s: float
    shares: dict[str, float]

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.took_s


def measure(
    note: Note, check_signatures: Callable[[], None], count: int, full: bool, only: frozenset[str]
) -> list[Figure]:
    """The figures of `NAMES`, or of `only`; `transfers` with a share for each part of the work.

    `check_signatures` verifies `count` signatures. Raises NotReady.
    """
    wanted = frozenset(NAMES) & only if only else frozenset(NAMES)
    limits = measure_limits(check_signatures, count)
    with run_validators() as validators:
        try:
            return trio.run(_measure, validators, note, SECONDS_FULL if full else SECONDS, wanted, limits)
        except BaseExceptionGroup as group:
            raise unwrap(group) from group


async def _measure(
    validators: Validators, note: Note, seconds: float, wanted: frozenset[str], limits: tuple[float, float]
) -> list[Figure]:
    figures: list[Figure] = []
    alone_per_s, together_per_s = limits
    way_ms = 1_000 * SIGNATURES_ON_ITS_WAY / alone_per_s

    def add(name: str, latencies_s: list[float], percent: int) -> None:
        if name in wanted:
            figures.append(compare(name, 1_000 * get_percentile(latencies_s, percent), "ms", LIMIT_WAY, way_ms))

    async with open_client(validators) as client:
        run = Run(validators, client, note, seconds)
        if wanted & {"finality_p50", "finality_p99"}:
            light = await run.pace(LIGHT_PER_S)
            add("finality_p50", light, 50)
            add("finality_p99", light, 99)
        if wanted & {"transfers", "finality_p99_busy"}:
            found = await run.flow()
            if not found.latencies_s:
                raise NotReady(f"no transfer became final in {found.took_s:.0f} s")
            note(describe(found, together_per_s))
            if "transfers" in wanted:
                figures.append(compare("transfers", found.per_s, "/s", LIMIT, together_per_s / VALIDATORS))
                shares = found.shares.items()
                figures += [compare(f"transfers_share_{part}", its, "%", "their time", 100.0) for part, its in shares]
            if "finality_p99_busy" in wanted:
                add("finality_p99_busy", await run.pace(BUSY_SHARE * found.per_s), 99)
    return figures


def measure_limits(check_signatures: Callable[[], None], count: int) -> tuple[float, float]:
    """Signatures a second that one core verifies while others rest, and all of them at once."""
    begun_s = time.process_time()
    check_signatures()
    alone_s = time.process_time() - begun_s
    cores = len(os.sched_getaffinity(0))
    begun_s = time.process_time()
    with ThreadPoolExecutor(cores) as pool:  # verifying lets go of the interpreter
        for done in [pool.submit(check_signatures) for _ in range(cores)]:
            done.result()
    # Processor time, so that what else runs does not count: cores that share their parts are slower together.
    together_s = (time.process_time() - begun_s) / cores
    return count / alone_s, cores * count / together_s


def describe(found: Flow, limit_per_s: float) -> str:
    """Where the processor time of a transfer goes."""
    count = max(1, len(found.latencies_s))
    cores = len(os.sched_getaffinity(0))
    each_us, client_us = (
        1e6 * spent_s / count for spent_s in (found.validators_cpu_s / VALIDATORS, found.client_cpu_s)
    )
    p50, p99 = (1_000 * get_percentile(found.latencies_s, percent) for percent in (50, 99))
    return (
        f"a transfer takes each validator {each_us:.0f} us of processor time, its signature"
        f" {1e6 * cores / limit_per_s:.0f}; the client {client_us:.0f} us; {count / max(1, found.blocks):.0f} in a"
        f" block; final after {p50:.0f} ms, 99 % within {p99:.0f} ms"
    )


def get_percentile(values: list[float], percent: int) -> float:
    """The least of the values that so many percent do not exceed; 0 of none.

    >>> get_percentile([4.0, 1.0, 3.0, 2.0], 50), get_percentile([4.0, 1.0, 3.0, 2.0], 99)
    (2.0, 4.0)
    """
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)] if values else 0.0


class Run:
    """The phases of one run, one after another, each of so many seconds."""

    def __init__(self, validators: Validators, client: Client, note: Note, seconds: float) -> None:
        self._validators = validators
        self._client = client
        self._note = note
        self._seconds = seconds
        self._purse = Purse(validators.genesis, validators.network.accounts)

    async def flow(self) -> Flow:
        """As many as the network takes, WINDOW under way."""
        validators, client, seconds = self._validators, self._client, self._seconds
        await self._sign((WARM_S + seconds) * PER_S_MAX)
        self._note(f"transfers: {VALIDATORS} validators, {WINDOW} under way, {seconds:g} s")
        await self._fill(WARM_S, 0)
        validators.start_sampling()
        blocks, begun_s = client.blocks, time.monotonic()
        cpu_s, own_s = validators.get_cpu_s(), time.process_time()
        await self._fill(seconds, blocks + BLOCKS_MIN)
        took_s = time.monotonic() - begun_s
        cpu_s, own_s = validators.get_cpu_s() - cpu_s, time.process_time() - own_s
        latencies = [latency_s for at_s, latency_s in client.final if at_s >= begun_s]
        blocks = client.blocks - blocks
        shares = validators.stop_sampling()
        await client.wait_until_below(1, DRAIN_S)
        return Flow(latencies, took_s, blocks, cpu_s, own_s, shares)

    async def pace(self, per_s: float) -> list[float]:
        """Seconds until final of transfers that come at this rate whatever the network does, at moments of their own.

        Whoever forwards many waits for GATHER_S or a full message, and while UNDER_WAY_MAX are under way; what a
        transfer waits there counts too.
        """
        await self._sign(per_s * (WARM_S + self._seconds))
        self._note(f"finality: {VALIDATORS} validators, {per_s:.0f} transfers a second, {self._seconds:g} s")
        dice, client = random.Random(1), self._client
        begun_s = time.monotonic()
        dues_s = [begun_s]
        while items := self._purse.take(min(BATCH, max(1, int(per_s * GATHER_S)))):
            dues_s = list(accumulate((dice.expovariate(per_s) for _ in items), initial=dues_s[-1]))[1:]
            await trio.sleep(max(0.0, dues_s[-1] - time.monotonic()))
            if not await client.wait_until_below(UNDER_WAY_MAX, DRAIN_S):
                break  # nothing becomes final any more
            client.publish(items, dues_s)
        await client.wait_until_below(1, DRAIN_S)
        taken = [latency_s for at_s, latency_s in client.final if at_s - latency_s >= begun_s + WARM_S]
        # What never came took as long as was waited for it.
        return [*taken, *[DRAIN_S] * client.in_flight]

    async def _sign(self, count: float) -> None:
        self._note(f"signing {count:.0f} transfers")
        await trio.to_thread.run_sync(self._purse.sign, int(count))

    async def _fill(self, seconds: float, blocks: int) -> None:
        """Keep WINDOW under way for so long, and until the client has so many blocks. Raises NotReady."""
        client, begun_s = self._client, time.monotonic()
        while (spent_s := time.monotonic() - begun_s) < seconds or client.blocks < blocks:
            if spent_s > seconds + BLOCKS_S:
                under_way = f"{client.in_flight} transfers under way for {spent_s:.0f} s"
                raise NotReady(f"{under_way}, and {client.blocks} blocks are final instead of {blocks}")
            if await client.wait_until_below(WINDOW, POLL_S):
                items = self._purse.take(BATCH)
                client.publish(items)
                await (trio.lowlevel.checkpoint() if items else trio.sleep(POLL_S))
