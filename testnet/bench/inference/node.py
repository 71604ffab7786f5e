"""An inference node of the benchmark: the node of a data directory, which notes how long its event loop was blocked.

SIGUSR1 begins, SIGUSR2 writes what was found beside the node's other files.
"""

import json
import signal
from pathlib import Path
from types import FrameType

import trio

from roles.files import write_atomically
from roles.node import RunningNode, run
from testnet.bench.inference.loop_watch import LoopWatch

LOOP_NAME = "loop.json"


def main(arguments: list[str]) -> int:
    """Run it; the exit code of the node."""
    directory = Path(arguments[0])
    watch = LoopWatch()

    def begin(number: int, frame: FrameType | None) -> None:
        watch.reset()

    def tell(number: int, frame: FrameType | None) -> None:
        found = {"max_ms": 1_000 * watch.max_s, "clock_max_ms": 1_000 * watch.clock_max_s}
        write_atomically(directory / LOOP_NAME, json.dumps(found))

    async def drive(node: RunningNode) -> None:
        watch.start()
        await trio.sleep_forever()

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, tell)
    return run(directory, driver=drive)
