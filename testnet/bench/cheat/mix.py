"""Honest nodes alone, each under another version of onnxruntime, optimisation level and batch size: is anyone blamed?

What a profile gives for a row is run once, by a process of that version, and given to whoever is asked for it: honest
runs of one profile give the same bytes (`tests/testnet/test_determinism.py` has each run 10,000 times).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from protocol.jobs import Mode
from protocol.proofs.profiles import Profile
from protocol.proofs.steps import AnyAnswer, AnyQuestion
from protocol.tensor import Tensor
from roles.engine.profile import get_isa
from roles.engine.rows_runner import LEVELS
from roles.engine.stepped import Stepped
from testnet.bench.cheat.outcomes import Outcomes, compute_outcomes
from testnet.bench.cheat.run import BATCH_MS, ROLES, found_for, observe
from testnet.bench.cheat.strategies import BOTH, Strategy
from testnet.bench.cheat.sweep import Piece, Result
from testnet.bench.figures import Note
from testnet.rows_process import RowsProcess
from testnet.sim import simulate
from testnet.sim_inputs import count_heldout, get_engine, get_heldout_inputs, load_model_bytes, load_model_records

SHARES = {"digits": 2, "digits-fp32": 1, "digits-cnn": 1}  # of the jobs; only of an exact model anyone can be slashed
BATCHES = (1, 7, 64)
NETWORK_JOBS = 400
COLUMNS = "mode|model|jobs|answered|wrong out|asked again|earned nothing|disputes|slashed|verdict"


class TableEngine:
    """Gives what was run before under one profile. Disputes are fought with runs of its own, without optimisation."""

    def __init__(self, path: str, version: str, level: str, batch: int) -> None:
        self._outputs = _load_table(path)
        self._key = f"{version}|{level}|{batch}"
        self.profile = str(Profile(version, "cpu", get_isa(), 1, level, batch))

    def compute(
        self, model: bytes, inputs: tuple[Tensor, ...], say: Callable[[Stepped], None] | None = None
    ) -> tuple[tuple[Tensor, ...], str]:
        rows = self._outputs[f"{self._key}|{model.hex()}"]
        row = rows[_find_row(model, inputs)][None]
        dtype = {"i": "int32", "f": "float32"}[row.dtype.kind]
        return (Tensor(dtype, row.shape, row.astype(row.dtype.newbyteorder("<")).tobytes()),), self.profile

    def inspect(self, model: bytes, question: AnyQuestion) -> AnyAnswer:
        return get_engine().inspect(model, question)


@dataclass(frozen=True)
class MixRow:
    """One model in one mode."""

    model: str
    mode: str
    sums: Outcomes

    @property
    def missed(self) -> tuple[str, ...]:
        return tuple(judge(self.sums))

    def to_dict(self) -> dict[str, object]:
        figures = {key: value for key, value in self.sums.to_dict().items() if key not in ("batches", "gain")}
        name = f"honest_{self.mode}_{self.model}"
        head = {"name": name, "value": self.sums.honest_slashed, "unit": "slashed", "peer": "bar", "peer_value": 0}
        return {**head, "ratio": 0.0, **figures, "missed": list(self.missed)}

    def format_cells(self) -> list[str]:
        sums = self.sums
        counts = (sums.jobs, sums.answered, sums.wrong_released, sums.again, sums.unpaid, sums.disputes)
        return [
            self.mode,
            self.model,
            *map(str, counts),
            str(sums.honest_slashed + sums.convictions),
            "; ".join(self.missed) or "holds",
        ]


def judge(sums: Outcomes) -> Iterator[str]:
    """What honest nodes must not come to, and have."""
    if sums.honest_slashed or sums.convictions:
        yield f"{sums.honest_slashed} nodes were slashed, {sums.convictions} claims found wrong"
    if sums.wrong_released:
        yield f"{sums.wrong_released} answers are beyond the bound"
    if sums.unsettled:
        yield f"something was still open in {sums.unsettled} networks"
    if sums.unpaid:
        yield f"{sums.unpaid} honest answers earned nothing"
    if sums.answered < sums.jobs:
        yield f"{sums.jobs - sums.answered} requests had no answer"


def write_markdown(rows: Sequence[MixRow], versions: Sequence[str], jobs: int, seed: int) -> str:
    """The table, with what it was made by."""
    profiles = len(versions) * len(LEVELS) * len(BATCHES)
    command = f"rolemesh bench cheat --honest --jobs {jobs} --seed {seed}"
    ran = (
        f"onnxruntime {', '.join(sorted(versions))}; levels {', '.join(LEVELS)}; batches {', '.join(map(str, BATCHES))}"
    )
    lines = [f"Made by `{command}`: every node under one of {profiles} profiles ({ran}).", ""]
    lines += [f"| {' | '.join(COLUMNS.split('|'))} |", "|---" * len(COLUMNS.split("|")) + "|"]
    lines += [f"| {' | '.join(row.format_cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def make_table(pythons: Sequence[str], path: Path, note: Note) -> tuple[str, ...]:
    """Run every held-out row under every profile of these Pythons into a file; the versions they have. RowsFailed."""
    arrays: dict[str, Any] = {}
    versions = []
    records = {record.digest: record for record in load_model_records(tuple(sorted(SHARES)))}
    models = {digest.hex(): load_model_bytes()[digest] for digest in records}
    for python in pythons:
        with RowsProcess(python, models) as process:
            versions.append(process.version)
            note(f"running {count_heldout()} rows of {len(models)} models under onnxruntime {process.version}")
            for digest, record in records.items():
                rows = np.concatenate([_to_array(get_heldout_inputs(row, record)) for row in range(count_heldout())])
                for level in LEVELS:
                    for batch in BATCHES:
                        key = f"{process.version}|{level}|{batch}|{digest.hex()}"
                        (arrays[key],) = process.run([rows], digest.hex(), level, batch)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return tuple(versions)


def plan(jobs: int, first_seed: int) -> list[Piece]:
    """The networks of so many jobs or a few more: one at least for each model and mode."""
    networks = -(-jobs // (len(BOTH) * sum(SHARES.values()) * NETWORK_JOBS))
    return [
        Piece(model, str(mode), first_seed + number, NETWORK_JOBS)
        for number in range(networks * max(SHARES.values()))
        for mode in BOTH
        for model, share in SHARES.items()
        if number < networks * share
    ]


def simulate_mix(path: str, piece: Piece) -> tuple[Outcomes, dict[str, int]]:
    """What `sweep` does with each: `path` is that of the table. Every node that runs models draws its profile."""
    strategy = Strategy("honest", "nobody cheats", {"inference-0": "inference"}, models=(piece.strategy,))
    foundation = found_for(strategy, piece.seed)
    options: dict[str, dict[str, Any]] = {"network": {"models": strategy.ledger}, "inference": {"batch_ms": BATCH_MS}}
    network = simulate(piece.seed, ROLES, options=options)
    dice = random.Random(piece.seed)
    versions = sorted({key.split("|")[0] for key in _load_table(path)})
    for name, node in network.nodes.items():
        if name.startswith(("inference", "verifier")):
            version, level, batch = dice.choice(versions), dice.choice(list(LEVELS)), dice.choice(BATCHES)
            node.engine = TableEngine(path, version, level, batch)
    return compute_outcomes(observe(network, foundation, strategy, Mode(piece.mode), piece.jobs), strategy)


def make_rows(results: Sequence[Result]) -> list[MixRow]:
    """A row for each model and mode."""
    rows = []
    for mode in BOTH:
        for model in SHARES:
            sums = Outcomes()
            for result in results:
                if (result.piece.mode, result.piece.strategy) == (mode, model):
                    sums.add(result.outcomes)
            if sums.jobs:
                rows.append(MixRow(model, str(mode), sums))
    return rows


@cache
def _load_table(path: str) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@cache
def _list_rows(model: bytes) -> Mapping[bytes, int]:
    """The number of each held-out row, by its bytes as the model takes them. Rows that are alike give the same."""
    record = next(item for item in load_model_records(tuple(sorted(SHARES))) if item.digest == model)
    return {get_heldout_inputs(row, record)[0].data: row for row in range(count_heldout())}


def _find_row(model: bytes, inputs: tuple[Tensor, ...]) -> int:
    return _list_rows(model)[inputs[0].data]


def _to_array(inputs: tuple[Tensor, ...]) -> Any:
    (tensor,) = inputs
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)
