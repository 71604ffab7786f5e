"""The figures of `rolemesh bench inference`: requests through client, worker and engine, beside the model alone.

Requests go through `roles.client.Client` down an open stream: the client signs a voucher for each and keeps it, the
worker checks it, runs the model, signs receipt and claim and keeps them; the client checks what it gets and keeps the
receipt. Mode `batch`: an answer is released when it comes, and settled later.
"""

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from protocol.jobs import Mode
from protocol.ledger.job_records import BatchPhase
from protocol.tensor import Tensor
from roles.client import Client
from roles.client_errors import ClientError
from roles.node import unwrap
from testnet.ask import LOG_NAME, logging_to
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.finality.measure import get_percentile
from testnet.bench.inference import peer
from testnet.bench.inference.bare import Bare
from testnet.bench.inference.load import Ask, Refusal, ask_at_once, ask_at_rate, ask_in_turn
from testnet.bench.inference.models import PROBE_STEPS, ROW, build_chain, compute_shape
from testnet.bench.inference.network import Network, NotReady, read_last_words, run_network

NAMES = (
    "added_p50",
    "added_p99",
    "throughput_10ms",
    "throughput_30ms",
    "overload",
    "overload_refusal_p99",
    "requests_1ms",
    "loop_max",
)
BARE, BAR = "session.run", "bar"
ADDED_P50_MS, ADDED_P99_MS, REFUSAL_MS, LOOP_MS = 3.0, 15.0, 50.0, 20.0  # the bars
SHORT_MS, MIDDLE_MS, LONG_MS = 1.0, 10.0, 30.0  # of one row, about
SIZING_RUNS = 50
ROUNDS, ROUNDS_FULL = 2, 10
TURN = 200  # requests, and runs of the model alone, of a round one after another
WARM_REQUESTS = 50
WARM_S_MAX = 60.0
SETTLE_S, SETTLE_POLL_S = 120.0, 0.5
WARM_S = 1.0
SECONDS, SECONDS_FULL = 3.0, 20.0
THROUGHPUT_CONCURRENCY = 4
CONCURRENCY = 16
OVERLOAD = 3.0
# With so many processes beside the server's own. Of several the faster counts.
PEERS, PEERS_FULL = {"mlserver, one worker": 1}, {"mlserver, one worker": 1, "mlserver": 0}
TIMEOUT_S = 10.0
FEE_MAX = 10**9


@dataclass(frozen=True)
class Bench:
    """What all figures are measured with."""

    bare: Bare
    network: Network
    client: Client
    note: Note
    full: bool
    models: Mapping[float, Path]  # by milliseconds, about

    @property
    def rounds(self) -> int:
        return ROUNDS_FULL if self.full else ROUNDS

    @property
    def seconds(self) -> float:
        return SECONDS_FULL if self.full else SECONDS

    def make_ask(self, path: Path) -> Ask:
        """One request to the worker."""
        row = make_row()

        async def ask() -> None:
            try:
                await self.client.infer(
                    path.stem, row, mode=Mode.BATCH, max_fee=FEE_MAX, timeout_s=TIMEOUT_S, is_direct=True
                )
            except ClientError as error:
                raise Refusal(str(error)) from error

        return ask

    def time_bare(self, path: Path, seconds: float) -> list[float]:
        """Seconds of each run of the model alone, for about so long."""
        (each_s,) = self.bare.time_runs(path, 1)
        return self.bare.time_runs(path, max(TURN // 4, int(seconds / each_s)))


def make_row() -> Tensor:
    """One row for these models, (1, ROW) float32."""
    import numpy as np

    return Tensor("float32", (1, ROW), np.linspace(0, 1, ROW, dtype="<f4").tobytes())


def measure(note: Note, full: bool, only: frozenset[str]) -> list[Figure]:
    """The figures of `NAMES`, or of `only`. Raises NotReady."""
    wanted = frozenset(NAMES) & only if only else frozenset(NAMES)
    with TemporaryDirectory(prefix="rolemesh-models-") as folder, Bare() as bare:
        models = make_models(Path(folder), bare, note)
        with run_network(list(models.values())) as network:
            try:
                with logging_to(network.client / LOG_NAME):
                    return trio.run(_measure, bare, network, note, full, models, wanted)
            except BaseExceptionGroup as group:
                raise unwrap(group) from group


def make_models(folder: Path, bare: Bare, note: Note) -> dict[float, Path]:
    """Models that take about as long as they should on this machine, loaded by `bare`."""
    probes = {}
    for steps in (1, PROBE_STEPS):
        path = folder / f"probe-{steps}.onnx"
        path.write_bytes(build_chain(steps))
        bare.load(path)
        probes[steps] = 1_000 * statistics.median(bare.time_runs(path, SIZING_RUNS))
    step_ms = max(1e-4, (probes[PROBE_STEPS] - probes[1]) / (PROBE_STEPS - 1))
    models = {}
    for wanted_ms in (SHORT_MS, MIDDLE_MS, LONG_MS):
        path = folder / f"chain-{wanted_ms:.0f}ms.onnx"
        path.write_bytes(build_chain(*compute_shape(step_ms, probes[1], wanted_ms)))
        bare.load(path)
        took_ms = 1_000 * statistics.median(bare.time_runs(path, SIZING_RUNS))
        note(f"{path.stem}: {path.stat().st_size / 1024:.0f} KiB, {took_ms:.2f} ms a run")
        models[wanted_ms] = path
    return models


async def _measure(
    bare: Bare, network: Network, note: Note, full: bool, models: Mapping[float, Path], wanted: frozenset[str]
) -> list[Figure]:
    figures: list[Figure] = []
    async with Client.join(network.client) as client:
        bench = Bench(bare, network, client, note, full, models)
        await _warm(bench)
        network.watch_loop()
        if wanted & {"added_p50", "added_p99"}:
            figures += await measure_added(bench)
        for milliseconds in (MIDDLE_MS, LONG_MS):
            if f"throughput_{milliseconds:.0f}ms" in wanted:
                figures.append(await measure_throughput(bench, milliseconds))
        if wanted & {"overload", "overload_refusal_p99"}:
            await _settle(bench)
            figures += await measure_overload(bench)
        if "requests_1ms" in wanted:
            figures += await measure_requests(bench)
        if "loop_max" in wanted:
            loop_ms, clock_ms = await trio.to_thread.run_sync(network.get_loop_ms)
            note(f"loop: {loop_ms:.0f} ms blocked at most; by the clock, with waits for a core, {clock_ms:.0f} ms")
            figures.append(compare("loop_max", loop_ms, "ms", BAR, LOOP_MS))
    return [figure for figure in figures if figure.name in wanted]


async def _warm(bench: Bench) -> None:
    """Open a channel, and have all load the models who are to run them. Raises NotReady.

    A verifier starts its engine, which takes a second of a core, when it is drawn for the first time.
    """
    with trio.move_on_after(WARM_S_MAX):
        while not bench.network.has_loaded(bench.models.values()):
            for path in bench.models.values():
                await ask_in_turn(bench.make_ask(path), WARM_REQUESTS)
        return
    raise NotReady(f"not all verifiers were drawn in {WARM_S_MAX:.0f} s: {read_last_words(bench.network.directory)}")


async def _settle(bench: Bench) -> None:
    """Ask nothing until what was asked is settled, and verifiers have checked what is drawn of it: what one figure has
    put off, which the worker's bond makes it do a part at a time, is no part of the next. For SETTLE_S at most.
    """
    bench.note("until what was asked is settled and checked")
    with trio.move_on_after(SETTLE_S) as patience:
        while await trio.to_thread.run_sync(bench.network.count_unsettled) or _is_checked_still(bench.client):
            await trio.sleep(SETTLE_POLL_S)
    if patience.cancelled_caught:
        bench.note(f"not all of it was within {SETTLE_S:.0f} s: the next figure has a share in the rest")


def _is_checked_still(client: Client) -> bool:
    """Whether drawn leaves of a batch are to be opened or run again, as far as this client's ledger says."""
    return any(batch.phase < BatchPhase.WINDOW for batch in client.node.core.ledger.batches.values())


async def measure_added(bench: Bench) -> list[Figure]:
    """Milliseconds that a request takes longer than the model alone, one after another; rounds of both take turns."""
    path = bench.models[SHORT_MS]
    ask, bare_s, ours_s = bench.make_ask(path), list[float](), list[float]()
    for number in range(bench.rounds):
        bench.note(f"added: round {number + 1} of {bench.rounds}, {TURN} requests one after another")
        bare_s += bench.bare.time_runs(path, TURN)
        ours_s += await ask_in_turn(ask, TURN)
    alone_s = statistics.median(bare_s)
    added_ms = [1_000 * (taken_s - alone_s) for taken_s in ours_s]
    bench.note(f"added: {1_000 * alone_s:.2f} ms the model alone, {1_000 * statistics.median(ours_s):.2f} ms a request")
    return [
        compare("added_p50", get_percentile(added_ms, 50), "ms", BAR, ADDED_P50_MS),
        compare("added_p99", get_percentile(added_ms, 99), "ms", BAR, ADDED_P99_MS),
    ]


async def measure_throughput(bench: Bench, milliseconds: float) -> Figure:
    """Requests a second, a few under way, beside how often the model alone runs on one core; rounds take turns."""
    path = bench.models[milliseconds]
    ask, pairs = bench.make_ask(path), []
    for number in range(bench.rounds):
        bench.note(f"throughput of {path.stem}: round {number + 1} of {bench.rounds}")
        bare_s = bench.time_bare(path, bench.seconds / 2)
        load = await ask_at_once(ask, THROUGHPUT_CONCURRENCY, WARM_S / 2, bench.seconds / 2)
        pairs.append((load.per_s, len(bare_s) / sum(bare_s)))
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return compare(f"throughput_{milliseconds:.0f}ms", ours, "/s", BARE, bare)


async def measure_requests(bench: Bench) -> list[Figure]:
    """Requests a second for a short model with many under way, beside mlserver; rounds of both take turns."""
    path = bench.models[SHORT_MS]
    ask = bench.make_ask(path)
    bench.note(f"requests of {path.stem}: {CONCURRENCY} under way")
    await _settle(bench)
    python = peer.find_python()
    if python is None:
        bench.note(f"NOT BESIDE mlserver {peer.VERSION}, which is not installed: `{peer.COMMAND}` installs it")
        bare_s = bench.time_bare(path, bench.seconds / 2)
        load = await ask_at_once(ask, CONCURRENCY, WARM_S, SECONDS)
        return [compare("requests_1ms", load.per_s, "/s", BARE, len(bare_s) / sum(bare_s))]
    ours, theirs = [], dict[str, list[float]]()
    with ExitStack() as servers:
        ports = {
            name: servers.enter_context(peer.run_server(python, path, workers))
            for name, workers in (PEERS_FULL if bench.full else PEERS).items()
        }
        for number in range(bench.rounds):
            ours.append((await ask_at_once(ask, CONCURRENCY, WARM_S, SECONDS)).per_s)
            await _settle(bench)  # or what ours has put off goes on beside theirs
            for name, port in ports.items():
                async with peer.open_client(port, path.stem, CONCURRENCY) as ask_them:
                    load = await ask_at_once(ask_them, CONCURRENCY, WARM_S, SECONDS)
                theirs.setdefault(name, []).append(load.per_s)
            told = ", ".join(f"{name} {found[-1]:.0f}" for name, found in theirs.items())
            bench.note(f"requests: round {number + 1} of {bench.rounds}: ours {ours[-1]:.0f} a second, {told}")
    best = max(theirs, key=lambda name: statistics.median(theirs[name]))
    return [compare("requests_1ms", statistics.median(ours), "/s", best, statistics.median(theirs[best]))]


async def measure_overload(bench: Bench) -> list[Figure]:
    """Answers a second when three times as much is asked as can be done, and how soon the rest is turned away."""
    ask = bench.make_ask(bench.models[MIDDLE_MS])
    bench.note(f"overload: the most that comes back, {CONCURRENCY} under way")
    peak = await ask_at_once(ask, CONCURRENCY, WARM_S, bench.seconds)
    per_s = OVERLOAD * peak.per_s
    bench.note(f"overload: {per_s:.0f} requests a second, of which {peak.per_s:.0f} can be done")
    load = await ask_at_rate(ask, per_s, WARM_S, 2 * bench.seconds)
    refused_ms = 1_000 * get_percentile(load.refused_s, 99)
    bench.note(f"overload: {len(load.answered_s)} answered, {len(load.refused_s)} refused")
    return [
        compare("overload", load.per_s, "/s", "its peak", peak.per_s),
        compare("overload_refusal_p99", refused_ms, "ms", BAR, REFUSAL_MS),
    ]
