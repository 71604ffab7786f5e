"""Processes that are forked from one that has imported libp2p, as those of a network are.

For tests that kill and restart nodes: an interpreter of its own for each would spend most of its time on imports.
"""

import atexit
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from testnet.launch import WARM_MODULES, Launcher, Program
from testnet.network_file import NetworkFile
from tests.support import warm

START_S_MAX = 60.0
_numbers = count()


@dataclass
class Forked:
    """A process, with what tests want of a `subprocess.Popen`."""

    launcher: Launcher
    name: str
    log: Path

    @property
    def pid(self) -> int:
        return self.launcher.pids[self.name]

    def poll(self) -> int | None:
        self.launcher.poll(0)
        return self.launcher.exits.get(self.name)

    def wait(self, timeout_s: float = START_S_MAX) -> int:
        """Its exit code. subprocess.TimeoutExpired when it runs on."""
        self._wait_for(self.launcher.exits, timeout_s)
        return self.launcher.exits[self.name]

    @property
    def returncode(self) -> int | None:
        return self.launcher.exits.get(self.name)

    def communicate(self, timeout: float = START_S_MAX) -> tuple[str, str]:
        """What a `command` has said on standard output and on standard error, when it has ended."""
        self.wait(timeout)
        return self.log.with_suffix(".out").read_text(), self.log.with_suffix(".err").read_text()

    def wait_until_started(self) -> None:
        self._wait_for(self.launcher.pids, START_S_MAX)

    def send_signal(self, number: int) -> None:
        self.launcher.kill(self.name, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait_for(self, reports: dict[str, int], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.name not in reports:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self.name, timeout_s)
            self.launcher.poll(left)


@contextmanager
def forked(target: str, arguments: tuple[str, ...], log: Path) -> Iterator[Forked]:
    """`module:function(arguments) -> exit code` as a process; killed at the end if it still runs."""
    process = Forked(_get_launcher(), f"forked-{next(_numbers)}", log)
    process.launcher.start([Program(process.name, target, arguments, log)])
    process.wait_until_started()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def command(words: tuple[str, ...], log: Path) -> AbstractContextManager[Forked]:
    """`rolemesh WORD…` as such a process (`tests.support.warm`). What it says is for `communicate`."""
    said, told = log.with_suffix(".out"), log.with_suffix(".err")
    return forked("tests.support.warm:main", (str(said), str(told), *words), log)


@cache
def _get_launcher() -> Launcher:
    """One for all tests of this process; it ends with it."""
    folder = tempfile.TemporaryDirectory(prefix="forked-")
    directory = Path(folder.name)
    (directory / "logs").mkdir()
    launcher = Launcher(
        directory, NetworkFile("dev-1", "00" * 8, 1, 0, {}, (), ()), warm=(*WARM_MODULES, *warm.MODULES)
    )
    launcher.__enter__()
    atexit.register(folder.cleanup)
    atexit.register(launcher.end)
    return launcher
