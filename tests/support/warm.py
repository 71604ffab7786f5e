"""`rolemesh` in a process forked from one that has imported everything, and its network's zygote forked from that.

An interpreter for `testnet up` and another for its zygote take 2.4 s of processor time before the first node runs:
a third of what a network of nine nodes takes until it is ready.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from typing import IO

from testnet import cli, launch, processes

MODULES = (
    "tests.support.warm",
    "testnet.cli.up",
    "testnet.cli.running",
    "testnet.fault_control",
    "testnet.fault_desk",
    "testnet.found",
    "testnet.review",
    "roles.client_role",
    "roles.inference",
    "roles.oracle",
    "roles.storage",
    "roles.validator",
    "roles.verifier",
)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.02


def main(arguments: list[str]) -> int:
    """`SAID TOLD WORD…`: run these words as `rolemesh` does, standard output and error into the two files."""
    said, told, *words = arguments
    for descriptor, path in ((1, said), (2, told)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as an interpreter begins
    launch.start_zygote = _fork_zygote
    return cli.main(words)


class _ForkedZygote:
    """What a launcher wants of a `subprocess.Popen`."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout

    def wait(self, timeout_s: float = 3_600.0) -> None:
        deadline = time.monotonic() + timeout_s
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("zygote", timeout_s)
            time.sleep(POLL_S)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _fork_zygote(arguments: list[str], log: IO[bytes]) -> _ForkedZygote:
    """In place of `launch.start_zygote`."""
    orders, orders_in = os.pipe()
    reports_out, reports = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    pid = os.fork()
    if pid == 0:
        _become_zygote(arguments, (orders, reports, log.fileno()))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(orders)
    os.close(reports)
    return _ForkedZygote(pid, os.fdopen(orders_in, "wb"), os.fdopen(reports_out, "rb"))


def _become_zygote(arguments: list[str], streams: Iterable[int]) -> None:
    """After a fork: forget what was the launcher's, then serve. Never returns."""
    code = 1
    try:
        os.setsid()
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        for descriptor, source in enumerate(streams):
            os.dup2(source, descriptor)
        os.closerange(3, 256)
        processes.main(arguments)
        code = 0
    finally:
        os._exit(code)
