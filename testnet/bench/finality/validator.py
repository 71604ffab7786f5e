"""A validator of the benchmark: the node of a data directory, which notes where its time goes when it is told to.

SIGUSR1 begins, SIGUSR2 ends and writes the shares beside the node's other files.
"""

import json
import signal
from pathlib import Path
from types import FrameType

from roles.files import write_atomically
from roles.node import run
from testnet.bench.finality.shares import Sampler

SHARES_NAME = "shares.json"


def main(arguments: list[str]) -> int:
    """Run it; the exit code of the node."""
    directory = Path(arguments[0])
    sampler = Sampler()

    def start(number: int, frame: FrameType | None) -> None:
        sampler.start()

    def stop(number: int, frame: FrameType | None) -> None:
        write_atomically(directory / SHARES_NAME, json.dumps(sampler.stop()))

    signal.signal(signal.SIGUSR1, start)
    signal.signal(signal.SIGUSR2, stop)
    return run(directory)
