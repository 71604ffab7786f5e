"""A client of the load: it asks at the pace that is set, whatever comes of it, and writes down how requests end."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from roles.client import Client
from roles.client_errors import ClientError
from roles.node import RunningNode, run
from testnet.bench.network.pace import ASKED_NAME, Asked, ClientPlan, format_asked, read_pace, read_plan

if TYPE_CHECKING:
    import numpy as np

POLL_S = 0.1  # between two looks at the pace
CATCH_UP_S = 0.5  # a client that was held up makes up for so much, and leaves the rest out
IN_FLIGHT_MAX = 1_024
FEE_MAX = 10**9
HELD = "held"  # the code of a request for which there was no room here


def main(arguments: list[str]) -> int:
    """Run the client of a data directory under its plan; the exit code of the node."""
    directory = Path(arguments[0])
    plan = read_plan(directory)

    async def drive(node: RunningNode) -> None:
        import numpy as np

        with np.load(plan.samples, allow_pickle=False) as arrays:
            inputs = arrays["inputs"]
        async with trio.open_nursery() as nursery:
            asking = _Asking(Client(node), plan, inputs, directory / ASKED_NAME)
            await asking.run(nursery)

    return run(directory, driver=drive)


class _Asking:
    """What is under way."""

    def __init__(self, client: Client, plan: ClientPlan, inputs: "np.ndarray[Any, Any]", log: Path) -> None:
        self.client = client
        self._plan = plan
        self._inputs = inputs
        # One write for each line: what a kill leaves is whole, or its last line is torn.
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(self._log, b"\n")
        self._under_way = 0

    async def run(self, nursery: trio.Nursery) -> None:
        pace, due_s, row = Path(self._plan.pace), trio.current_time(), 0
        looked_s, per_s = -POLL_S, 0.0
        while True:
            now_s = trio.current_time()
            if now_s >= looked_s + POLL_S:
                looked_s, before = now_s, per_s
                per_s = read_pace(pace) / self._plan.clients
                if per_s != before:
                    due_s = now_s
            due_s = max(due_s, now_s - CATCH_UP_S)
            if per_s and now_s >= due_s:
                due_s += 1 / per_s
                row = (row + 1) % len(self._inputs)
                self._begin(nursery, self._inputs[row])
            await trio.sleep_until(min(due_s, looked_s + POLL_S) if per_s else looked_s + POLL_S)

    def _begin(self, nursery: trio.Nursery, row: "np.ndarray[Any, Any]") -> None:
        if self._under_way >= IN_FLIGHT_MAX:
            self._write(Asked(time.time_ns() // 1_000_000, 0, HELD))
            return
        self._under_way += 1
        nursery.start_soon(self._ask, row)

    async def _ask(self, row: "np.ndarray[Any, Any]") -> None:
        at_ms, begun_s = time.time_ns() // 1_000_000, trio.current_time()
        code = ""
        try:
            answer = await self.client.infer(
                bytes.fromhex(self._plan.model),
                row[None],
                mode=self._plan.mode,
                max_fee=FEE_MAX,
                timeout_s=self._plan.timeout_ms / 1_000,
                is_direct=True,
            )
            request_id = answer.request_id
        except ClientError as error:
            request_id, code = error.request_id, error.code
        self._under_way -= 1
        self._write(Asked(at_ms, round(1_000 * (trio.current_time() - begun_s)), code, request_id.hex()))

    def _write(self, asked: Asked) -> None:
        os.write(self._log, format_asked(asked).encode())
