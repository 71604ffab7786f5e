"""What a client is to send: the plan in its data directory, and the samples as the model takes them.

Apart from `load`, which sends it: whoever starts a network writes the plan and has no use for libp2p.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.jobs import Mode
from roles.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

PLAN_NAME = "load.json"
DONE_NAME = "load-done.jsonl"  # beside it: how each row ended
IN_FLIGHT = 8
MIXED = "mixed"  # each mode in turn
ROWS_MAX = 1_000_000


class BadSamples(Exception):
    """The file holds no samples for this model. The message says what was expected and what was found."""


@dataclass(frozen=True)
class LoadPlan:
    """What to send: `rows` samples of the file, to the model with this digest (hex). `go` appears when it may begin.

    Of several clients, `clients`, each sends every so-manieth row, beginning with number `place`. `mode` is one of
    `protocol.jobs.Mode`, or MIXED. At most `per_s` are begun in a second; 0 for as many as can be. With `copies` it
    also leases the file of samples on as many storage nodes.
    """

    model: str
    samples: str
    rows: int
    go: str
    in_flight: int = IN_FLIGHT
    fee_max: int = 1_000_000_000
    timeout_ms: int = 30_000
    is_direct: bool = False
    mode: str = Mode.INDIVIDUAL
    place: int = 0
    clients: int = 1
    copies: int = 0
    per_s: float = 0


def write_plan(directory: Path, plan: LoadPlan) -> None:
    """Put the plan into a client's data directory."""
    write_atomically(directory / PLAN_NAME, json.dumps(asdict(plan), indent=1) + "\n")


def read_plan(directory: Path) -> LoadPlan | None:
    """The plan in a client's data directory, if there is one."""
    path = directory / PLAN_NAME
    return LoadPlan(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


class RowsDone:
    """Counts the rows that clients have written down as ended; a client that was killed may write one down twice."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._logs = [directory / DONE_NAME for directory in directories]
        self._offsets = dict.fromkeys(self._logs, 0)
        self._rows: set[int] = set()

    def count(self) -> int:
        for log in self._logs:
            if log.is_file():
                with log.open("rb") as file:
                    file.seek(self._offsets[log])
                    whole, newline, _ = file.read().rpartition(b"\n")
                self._offsets[log] += len(whole) + len(newline)
                self._rows |= {int(json.loads(line)["row"]) for line in whole.splitlines()}
        return len(self._rows)


def read_samples(path: Path, dtype: str, shape: Sequence[int]) -> tuple["np.ndarray[Any, Any]", list[str] | None]:
    """The rows of an .npz file (array `inputs`) as the model takes them, and their labels (array `labels`) as text.

    Raises BadSamples.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "inputs" not in arrays:
                raise BadSamples(f"{path} has no array `inputs`; it has: {', '.join(arrays) or 'none'}")
            inputs = arrays["inputs"]
            labels = [str(label) for label in arrays["labels"]] if "labels" in arrays else None
    except (OSError, ValueError, EOFError) as error:
        raise BadSamples(f"{path} is no .npz file of samples: {error}") from error
    fits = inputs.ndim == len(shape) and all(want in (0, have) for want, have in zip(shape, inputs.shape, strict=True))
    if not fits or not 0 < len(inputs) <= ROWS_MAX:
        got, wanted = f"{inputs.dtype.name} {inputs.shape}", f"{dtype} {tuple(shape)}"
        raise BadSamples(f"{path}: inputs are {got}, the model takes {wanted} (0 counts rows)")
    if labels is not None and len(labels) != len(inputs):
        raise BadSamples(f"{path}: {len(inputs)} inputs, but {len(labels)} labels")
    converted = inputs.astype(dtype)
    if not np.array_equal(converted, inputs):
        raise BadSamples(f"{path}: inputs are {inputs.dtype.name}, and their values do not fit {dtype}")
    return converted, labels
