"""Drive a client: every row of a file of samples becomes a request, a bounded number of them in flight.

The client waits for the launcher's word that the network is ready. Rows that have ended are written down, so a client
that was killed and started again with `rolemesh node run` goes on with the rest.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from protocol.tensor import Tensor
from roles import core_effects as ce
from roles.attempts import Ask, Outcome
from roles.files import write_atomically
from roles.node import Commands, Outcomes, run

if TYPE_CHECKING:
    import numpy as np

PLAN_NAME = "load.json"
DONE_NAME = "load-done.jsonl"
IN_FLIGHT = 8
ROWS_MAX = 1_000_000
POLL_S = 0.05


class BadSamples(Exception):
    """The file holds no samples for this model. The message says what was expected and what was found."""


@dataclass(frozen=True)
class LoadPlan:
    """What to send: `rows` samples of the file, to the model with this digest (hex). `go` appears when it may begin."""

    model: str
    samples: str
    rows: int
    go: str
    in_flight: int = IN_FLIGHT
    fee_max: int = 1_000_000_000
    timeout_ms: int = 30_000
    is_direct: bool = False


def write_plan(directory: Path, plan: LoadPlan) -> None:
    """Put the plan into a client's data directory."""
    write_atomically(directory / PLAN_NAME, json.dumps(asdict(plan), indent=1) + "\n")


def read_plan(directory: Path) -> LoadPlan | None:
    """The plan in a client's data directory, if there is one."""
    path = directory / PLAN_NAME
    return LoadPlan(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


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


def to_tensor(row: "np.ndarray[Any, Any]") -> Tensor:
    """One sample as a batch of one."""
    little = row[None].astype(row.dtype.newbyteorder("<"))
    return Tensor(row.dtype.name, tuple(int(size) for size in little.shape), little.tobytes())


def main(arguments: list[str]) -> int:
    """Run the client of a data directory under its plan; the exit code of the node."""
    directory = Path(arguments[0])
    plan = read_plan(directory)
    assert plan is not None, f"no {PLAN_NAME} in {directory}"

    async def drive(commands: Commands, outcomes: Outcomes) -> None:
        await _drive(directory, plan, commands, outcomes)

    return run(directory, driver=drive)


async def _drive(directory: Path, plan: LoadPlan, commands: Commands, outcomes: Outcomes) -> None:
    import numpy as np

    with np.load(plan.samples, allow_pickle=False) as arrays:
        inputs = arrays["inputs"][: plan.rows]
    done = directory / DONE_NAME
    ended = {json.loads(line)["row"] for line in done.read_text().splitlines()} if done.exists() else set()
    waiting = [index for index in range(len(inputs)) if index not in ended]
    while not Path(plan.go).exists():
        await trio.sleep(POLL_S)
    model = bytes.fromhex(plan.model)
    in_flight = 0
    with done.open("a", encoding="utf-8") as log:
        while waiting or in_flight:
            while waiting and in_flight < plan.in_flight:
                row = waiting.pop(0)
                ask = Ask(
                    token=f"row-{row}",
                    model=model,
                    inputs=(to_tensor(inputs[row]),),
                    fee_max=plan.fee_max,
                    timeout_ms=plan.timeout_ms,
                    is_direct=plan.is_direct,
                )
                await commands.send(ce.Command("client", ask))
                in_flight += 1
            outcome = (await outcomes.receive()).outcome
            if isinstance(outcome, Outcome):
                in_flight -= 1
                row = int(outcome.token.removeprefix("row-"))
                log.write(json.dumps({"row": row, "request_id": outcome.request_id.hex(), "code": outcome.code}) + "\n")
                log.flush()
    # The node stays: others may still want something of it, and the launcher ends it with the rest.
    await trio.sleep_forever()
