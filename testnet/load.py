"""Drive a client: every row of a file of samples becomes a request, a bounded number of them in flight.

The client waits for the launcher's word that the network is ready. Rows that have ended are written down, so a client
that was killed and started again with `rolemesh node run` goes on with the rest.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from protocol.tensor import Tensor
from roles import core_effects as ce
from roles.attempts import Ask, Outcome
from roles.node import Commands, Outcomes, run
from testnet.load_plan import PLAN_NAME, LoadPlan, read_plan

if TYPE_CHECKING:
    import numpy as np

DONE_NAME = "load-done.jsonl"
POLL_S = 0.05


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
