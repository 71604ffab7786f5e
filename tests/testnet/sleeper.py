"""A program that says it is there and sleeps, and a launcher of such programs; for tests of processes."""

import os
import random
import signal
import sys
from pathlib import Path

from testnet.launch import Launcher, Program
from testnet.network_file import NetworkFile


def main(arguments: list[str]) -> int:
    """Write pid and a random number to a file, then sleep until a signal; with `ignore`, SIGTERM is ignored."""
    if arguments[1] == "ignore":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report = Path(arguments[0])
    temporary = report.with_suffix(".new")
    temporary.write_text(f"{os.getpid()} {random.random()}")
    temporary.rename(report)
    while True:
        signal.pause()


def launch() -> None:
    """Start three sleepers, print their pids, and wait to be killed."""
    directory, mode = Path(sys.argv[1]), sys.argv[2]
    (directory / "logs").mkdir()
    names = ("a", "b", "c")
    network = NetworkFile("dev-1", "00" * 8, 1, 0, {}, (), ())
    with Launcher(directory, network, spawn=mode == "spawn", warm=("tests.testnet.sleeper",), grace_s=0.3) as launcher:
        log = directory / "logs" / "all.log"
        target = "tests.testnet.sleeper:main"
        launcher.start([Program(name, target, (str(directory / name), "ignore"), log) for name in names])
        assert launcher.wait(lambda: all((directory / name).exists() for name in names), 20.0, lambda: None)
        sys.stdout.write(" ".join(str(launcher.pids[name]) for name in names) + "\n")
        sys.stdout.flush()
        signal.pause()
