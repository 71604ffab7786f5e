"""One strategy in one network of real processes on loopback, until everything is settled.

What came of it is computed from genesis, the blocks of its validator, the logs of all nodes and the receipts its
clients have kept, by the same sums as for simulated networks.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from protocol.codec import decode
from protocol.content import compute_digest
from protocol.jobs import Mode
from protocol.ledger.apply import apply_block
from protocol.ledger.block import Block
from protocol.ledger.genesis import Genesis, build_state
from protocol.proofs.receipt_file import decode_receipt_file
from roles.blobs import BlobStore
from roles.chain import DATABASE_NAME, RECEIPT_BUCKET, open_stored, read_kept
from roles.config import read_config, write_config
from roles.eventlog import FILE_NAME as EVENTS_NAME
from testnet.bench.cheat.outcomes import Answer, Observed, Outcomes, compute_outcomes, is_over
from testnet.bench.cheat.run import BATCH_MS, JOBS, ROLES, ROWS, is_right, list_options
from testnet.bench.cheat.strategies import BOTH, Strategy, find_strategies
from testnet.bench.cheat.sweep import Piece
from testnet.cheap_models import make_cheap
from testnet.found import NetworkPlan, found_network, load_model_files
from testnet.genesis import Foundation, build_genesis
from testnet.launch import LIVE_STATES, Launcher, plan_programs, read_status
from testnet.load_plan import DONE_NAME, LoadPlan, write_plan
from testnet.network_file import NetworkFile
from testnet.sim_inputs import get_engine, get_heldout_inputs

JOBS_SHORT = 400
JOBS_FULL = 2_000
LIE_BP = 10_000  # a network is short: whoever lies does so in every job
IN_FLIGHT = 4  # of each client
TIMEOUT_MS = 12_000
READY_S = 120.0
ASKED_S = 300.0
SETTLED_S = 120.0
POLL_S = 0.5
GO_NAME = "go"


class NotRun(Exception):
    """The network did not come up, or its clients did not end. The text says what, and what its nodes said last."""


def plan(strategies: Sequence[Strategy], jobs: int, first_seed: int) -> list[Piece]:
    """A network for each strategy and mode, so many jobs in all or a few more."""
    pairs = [(mode, one) for mode in BOTH for one in strategies if mode in one.modes]
    each = -(-jobs // len(pairs))
    return [Piece(one.name, str(mode), first_seed, each) for mode, one in pairs]


def run_piece(piece: Piece) -> tuple[Outcomes, dict[str, int]]:
    """What came of a network, and what an honest node in the cheat's place would have gained there, by its name.

    Raises NotRun, LaunchError and NoAddress.
    """
    (strategy,) = find_strategies(frozenset({piece.strategy}))
    with TemporaryDirectory(prefix="rolemesh-cheat-") as folder:
        directory = Path(folder) / "net"
        observed = _run(directory, strategy, piece)
    outcomes, gains = compute_outcomes(observed, strategy)
    return outcomes, {strategy.cheat: _estimate_honest(strategy, observed, gains)}


def _run(directory: Path, strategy: Strategy, piece: Piece) -> Observed:
    now_ms = time.time_ns() // 1_000_000
    directory.mkdir()
    files = load_model_files(strategy.ledger)
    options = {"inference": {"batch_ms": BATCH_MS}}
    network = found_network(NetworkPlan(directory, piece.seed, ROLES, files, options=options), now_ms)
    seeds = build_genesis(piece.seed, ROLES, [file.record for file in files], now_ms=now_ms).nodes
    foundation = Foundation(Genesis.from_json(json.dumps(network.genesis)), seeds, ())
    _corrupt(directory, network, strategy, foundation)
    asked = _plan_loads(directory, network, strategy, foundation, piece)
    ledger = _Ledger(directory, network, foundation.genesis)
    with _launch(directory, network) as launcher:
        (directory / GO_NAME).touch()
        if not launcher.wait(lambda: _count_done(directory, network) >= piece.jobs, ASKED_S, lambda: None):
            raise NotRun(f"{_count_done(directory, network)} of {piece.jobs} requests ended in {ASKED_S:.0f} s")
        is_settled = launcher.wait(ledger.is_settled, SETTLED_S, lambda: None)
    ledger.advance()
    events = list(_read_events(directory, network))
    answers = list(_read_answers(directory, network, foundation.genesis, asked))
    return Observed(foundation, ledger.blocks, events, answers, is_settled)


def _corrupt(directory: Path, network: NetworkFile, strategy: Strategy, foundation: Foundation) -> None:
    """Make cheats of some nodes, and lay out for them the models they run instead."""
    for name, options in list_options(strategy, foundation, LIE_BP).items():
        entry = network.get_node(name)
        assert entry is not None
        where = directory / entry.directory
        kind = options.pop("class")
        config = read_config(where)
        told = {**config.options, entry.role: {**config.options.get(entry.role, {}), **options}}
        write_config(where, replace(config, roles=(kind,), options=told))
        if strategy.rounds:
            store = BlobStore(where / "blobs")
            for data in make_cheap(strategy.rounds, strategy.models).values():
                store.put(data, compute_digest(data))


def _plan_loads(
    directory: Path, network: NetworkFile, strategy: Strategy, foundation: Foundation, piece: Piece
) -> Mapping[str, tuple[str, Sequence[int]]]:
    """Tell each client what to ask for: one model each, in turn. By client: the model's name, and its rows."""
    clients = [node for node in network.nodes if node.role == "client"]
    records = {record.name: record for record in foundation.genesis.models}
    asked = {}
    for number, client in enumerate(clients):
        model = records[strategy.models[number % len(strategy.models)]]
        rows = [row % ROWS for row in range(number, piece.jobs, len(clients))]
        where = directory / client.directory
        inputs = [get_heldout_inputs(row, model)[0] for row in rows]
        arrays = [np.frombuffer(one.data, np.dtype(one.dtype).newbyteorder("<")).reshape(one.shape) for one in inputs]
        np.savez(where / "samples.npz", inputs=np.concatenate(arrays))
        go = str((directory / GO_NAME).resolve())
        samples = str((where / "samples.npz").resolve())
        mode = Mode(piece.mode)
        write_plan(
            where, LoadPlan(model.digest.hex(), samples, len(rows), go, IN_FLIGHT, timeout_ms=TIMEOUT_MS, mode=mode)
        )
        asked[client.name] = model.name, rows
    return asked


@contextmanager
def _launch(directory: Path, network: NetworkFile) -> Iterator[Launcher]:
    """All nodes, serving and connected. Raises NotRun."""
    with Launcher(directory, network) as launcher:
        launcher.start(plan_programs(directory, network, has_load=True))

        def is_ready() -> bool:
            states = [read_status(directory, node) for node in network.nodes]
            live = [len(state.get("peers", ())) for state in states if state.get("state") in LIVE_STATES]
            return len(live) == len(network.nodes) and min(live) >= len(network.nodes) - 1

        if not launcher.wait(is_ready, READY_S, lambda: None):
            raise NotRun(f"not all nodes serve after {READY_S:.0f} s; {launcher.exits or 'all live'}")
        yield launcher


class _Ledger:
    """The blocks of a network's validator as they come."""

    def __init__(self, directory: Path, network: NetworkFile, genesis: Genesis) -> None:
        self.blocks: list[Block] = []
        self._state = build_state(genesis)
        self._directories = {node.name: directory / node.directory for node in network.nodes}
        self._workers = [node.name for node in network.nodes if node.role == "inference"]
        self._next_s = 0.0

    def is_settled(self) -> bool:
        """No money waits for anything, and no worker has a job that is not settled. Looked at every POLL_S."""
        if time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + POLL_S
        self.advance()
        return is_over(self._state) and not any(
            read_kept(self._directories[name] / DATABASE_NAME, JOBS) for name in self._workers
        )

    def advance(self) -> None:
        with open_stored(self._directories["validator-0"] / DATABASE_NAME) as (stored, _):
            for row in stored:
                if row.height > self._state.height:
                    block = decode(Block, row.block)
                    self._state = apply_block(self._state, block, check_signatures=False)
                    self.blocks.append(block)


def _count_done(directory: Path, network: NetworkFile) -> int:
    files = [directory / node.directory / DONE_NAME for node in network.nodes if node.role == "client"]
    return sum(file.read_bytes().count(b"\n") for file in files if file.exists())


def _read_events(directory: Path, network: NetworkFile) -> Iterator[Mapping[str, Any]]:
    for node in network.nodes:
        for line in (directory / node.directory / EVENTS_NAME).read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _read_answers(
    directory: Path, network: NetworkFile, genesis: Genesis, asked: Mapping[str, tuple[str, Sequence[int]]]
) -> Iterator[Answer]:
    """How every request ended, by what its client wrote down and the receipt it kept."""
    records = {record.name: record for record in genesis.models}
    for name, (model, rows) in asked.items():
        entry = network.get_node(name)
        assert entry is not None
        where = directory / entry.directory
        receipts = read_kept(where / DATABASE_NAME, RECEIPT_BUCKET)
        for line in (where / DONE_NAME).read_text(encoding="utf-8").splitlines():
            done = json.loads(line)
            if done["code"]:
                yield Answer(name, is_answered=False)
                continue
            file = decode_receipt_file(receipts[bytes.fromhex(done["request_id"])])
            inputs = get_heldout_inputs(rows[done["row"]], records[model])
            expected = get_engine().compute(records[model].digest, inputs)[0]
            is_wrong = not is_right(records[model], file.outputs, expected)
            worker, fee = file.receipt.claim.worker, file.voucher.amount
            yield Answer(name, True, is_wrong, worker, fee, file.voucher.attempt)


def _estimate_honest(strategy: Strategy, observed: Observed, gains: Mapping[str, int]) -> int:
    """What an honest node would have gained in the place of the cheat, by those of its role in the same network.

    Two runs of real processes are never alike, so there is no twin. Of workers it is what the honest ones have gained
    for each claim, times the claims of the cheat.
    """
    role = strategy.cheat.rpartition("-")[0]
    peers = [name for name in gains if name.startswith(role) and name not in strategy.cheats]
    if strategy.name.startswith("honest"):
        return gains[strategy.cheat]
    if role != "inference":
        return sum(gains[name] for name in peers) // len(peers)
    claims = dict.fromkeys([strategy.cheat, *peers], 0)
    for event in observed.get_events("claim.made"):
        claims[event["node"]] += 1
    made = sum(claims[name] for name in peers)
    return sum(gains[name] for name in peers) * claims[strategy.cheat] // made if made else 0
