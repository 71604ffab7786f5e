"""Drive a client: every row of a file of samples becomes a request, a bounded number of them in flight.

The client waits for the launcher's word that the network is ready. Rows that have ended are written down, so a client
that was killed and started again with `rolemesh node run` goes on with the rest.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from protocol.jobs import Mode
from roles.client import Client
from roles.client_errors import ClientError
from roles.node import RunningNode, run
from testnet.load_lease import lease_file
from testnet.load_plan import DONE_NAME, MIXED, PLAN_NAME, LoadPlan, read_plan

if TYPE_CHECKING:
    import numpy as np

POLL_S = 0.05


class Beat:
    """Moments of which at most `per_s` come in a second; those that nobody waited for are not made up for.

    With 0 any moment is one.
    """

    def __init__(self, per_s: float) -> None:
        self._apart_s = 1 / per_s if per_s else 0.0
        self._next_s = -math.inf

    async def wait(self) -> None:
        now_s = trio.current_time()
        due_s = max(now_s, self._next_s)
        self._next_s = due_s + self._apart_s
        await trio.sleep(due_s - now_s)


def main(arguments: list[str]) -> int:
    """Run the client of a data directory under its plan; the exit code of the node."""
    directory = Path(arguments[0])
    plan = read_plan(directory)
    assert plan is not None, f"no {PLAN_NAME} in {directory}"

    async def drive(node: RunningNode) -> None:
        await _drive(directory, plan, Client(node))

    return run(directory, driver=drive)


async def _drive(directory: Path, plan: LoadPlan, client: Client) -> None:
    import numpy as np

    with np.load(plan.samples, allow_pickle=False) as arrays:
        inputs = arrays["inputs"][: plan.rows]
    done = directory / DONE_NAME
    ended = {json.loads(line)["row"] for line in done.read_text().splitlines()} if done.exists() else set()
    own = range(plan.place, len(inputs), plan.clients)
    waiting = iter([index for index in own if index not in ended])
    while not Path(plan.go).exists():
        await trio.sleep(POLL_S)
    beat = Beat(plan.per_s)
    with done.open("a", encoding="utf-8") as log:

        async def ask_in_turn() -> None:
            for row in waiting:
                await beat.wait()
                request_id, code = await _ask(client, plan, inputs[row], _choose_mode(plan, row))
                log.write(json.dumps({"row": row, "request_id": request_id.hex(), "code": code}) + "\n")
                log.flush()

        async with trio.open_nursery() as listening:
            if plan.copies:
                listening.start_soon(lease_file, client.node, directory, Path(plan.samples), plan.copies)
            async with trio.open_nursery() as asking:
                for _ in range(plan.in_flight):
                    asking.start_soon(ask_in_turn)
            # The node stays: others may still want something of it, and the launcher ends it with the rest.
            await trio.sleep_forever()


def _choose_mode(plan: LoadPlan, row: int) -> Mode:
    if plan.mode != MIXED:
        return Mode(plan.mode)
    return list(Mode)[row // plan.clients % len(Mode)]


async def _ask(client: Client, plan: LoadPlan, row: "np.ndarray[Any, Any]", mode: Mode) -> tuple[bytes, str]:
    """The request's id, empty if none was made, and how it ended: an empty code is an answer."""
    try:
        answer = await client.infer(
            bytes.fromhex(plan.model),
            row[None],
            mode=mode,
            max_fee=plan.fee_max,
            timeout_s=plan.timeout_ms / 1_000,
            is_direct=plan.is_direct,
        )
    except ClientError as error:
        return error.request_id, error.code
    return answer.request_id, ""
