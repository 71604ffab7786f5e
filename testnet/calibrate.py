"""Calibrate a float model: how far honest machines are apart, how near the cheapest cheat comes, what bound follows.

The model runs over rows under every optimisation level, several batch sizes and every version of onnxruntime there is a
Python for; and once more with its weights rounded to half precision and to bytes. The bound follows from some of the
rows and is tried on the rest.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.ledger.model_records import Calibration
from protocol.ledger.models import compute_bound_ppt, explain_calibration
from protocol.proofs.classes import PPT
from roles.engine.profile import get_isa
from roles.engine.rounding import CHEATS, round_weights
from roles.engine.rows_runner import LEVELS
from testnet.rows_process import RowsProcess
from testnet.spread import Envelope

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK_ROWS = 256
DETECTED_MIN = 0.999  # of held-out rows with half-precision weights
HONEST = "honest"


@dataclass(frozen=True)
class Distances:
    """Of one set of rows: each row's distance between honest runs, and between them and every cheat, as shares."""

    honest: Array
    cheats: Mapping[str, Array]


@dataclass(frozen=True)
class Report:
    """What a calibration has found. `reason` says why the model is not of the fp32 class; empty when it is."""

    calibration: Calibration
    profiles: int
    honest_p999: float
    int8_min: float
    heldout_rows: int
    heldout_honest: float  # the farthest honest row of those the bound was not made from
    heldout_outside: int  # honest rows beyond the bound
    detected: Mapping[str, float]  # by cheat: the share of held-out rows beyond the bound
    reason: str

    @property
    def ratio(self) -> float:
        """The nearest fp16 row over the farthest honest one; infinite when honest runs agree to the bit."""
        honest = self.calibration.honest_ppt
        return self.calibration.fp16_ppt / honest if honest else math.inf


def calibrate(
    model: bytes,
    inputs: Sequence[Array],
    heldout: Sequence[Array],
    pythons: Sequence[str],
    seed: int,
    note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measure the rows of `inputs`, and try the bound on those of `heldout`.

    Raises RowsFailed, or MalformedProtobuf or ValueError for a model that has no rows to compare.
    """
    models = {HONEST: model} | {cheat: round_weights(model, cheat) for cheat in CHEATS}
    with ExitStack() as stack:
        processes = [stack.enter_context(RowsProcess(python, models)) for python in pythons]
        measured = measure(processes, inputs, lambda text: note(f"calibrating, {text}"))
        tried = measure(processes, heldout, lambda text: note(f"trying the bound on other rows, {text}"))
        profiles = sum(len(LEVELS) * len(process.batches) for process in processes)
        versions = tuple(sorted({process.version for process in processes}))
    honest_ppt = math.ceil(float(measured.honest.max()) * PPT)
    calibration = Calibration(
        bound_ppt=compute_bound_ppt(honest_ppt),
        honest_ppt=honest_ppt,
        fp16_ppt=math.floor(float(measured.cheats["fp16"].min()) * PPT),
        rows=len(inputs[0]),
        seed=seed,
        isa=get_isa(),
        versions=versions,
    )
    bound = calibration.bound_ppt / PPT
    outside = int((tried.honest > bound).sum())
    detected = {cheat: float((rows > bound).mean()) for cheat, rows in tried.cheats.items()}
    return Report(
        calibration=calibration,
        profiles=profiles,
        honest_p999=float(np.quantile(measured.honest, 0.999)),
        int8_min=float(measured.cheats["int8"].min()),
        heldout_rows=len(heldout[0]),
        heldout_honest=float(tried.honest.max()),
        heldout_outside=outside,
        detected=detected,
        reason=explain_calibration(calibration) or _explain_tried(outside, detected["fp16"], len(heldout[0])),
    )


def measure(processes: Sequence[RowsProcess], inputs: Sequence[Array], note: Callable[[str], None]) -> Distances:
    """Run all rows, chunk by chunk, under all profiles of all processes."""
    honest: list[Array] = []
    cheats: dict[str, list[Array]] = {cheat: [] for cheat in CHEATS}
    total = len(inputs[0])
    for at in range(0, total, CHUNK_ROWS):
        chunk = [array[at : at + CHUNK_ROWS] for array in inputs]
        envelope: Envelope | None = None
        for process in processes:
            for level in LEVELS:
                for batch in process.batches:
                    note(f"{at} of {total} rows: onnxruntime {process.version}, {level}, {batch} rows at a time")
                    outputs = process.run(chunk, HONEST, level, batch)
                    if envelope is None:
                        envelope = Envelope(outputs)
                    envelope.add(outputs)
        assert envelope is not None
        honest.append(envelope.measure_honest())
        for cheat, found in cheats.items():
            found.append(_measure_cheat(processes[0], envelope, chunk, cheat))
    return Distances(np.concatenate(honest), {cheat: np.concatenate(found) for cheat, found in cheats.items()})


def _measure_cheat(process: RowsProcess, envelope: Envelope, chunk: Sequence[Array], cheat: str) -> Array:
    """The nearest the cheat comes in each row, by the optimisation level that serves it best."""
    nearest: Array = np.min(
        [envelope.measure_cheat(process.run(chunk, cheat, level, process.batches[-1])) for level in LEVELS], axis=0
    )
    return nearest


def _explain_tried(outside: int, detected: float, rows: int) -> str:
    if outside:
        return f"{outside} of {rows} honest rows that the bound was not made from are beyond it: take more rows"
    if detected < DETECTED_MIN:
        share = f"{detected:.2%} of {rows} rows"
        return f"weights of half precision showed in {share} that the bound was not made from, {DETECTED_MIN:.1%} must"
    return ""
