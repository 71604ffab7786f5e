"""Networks of real processes for tests: started through the command line, ended whatever happens."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testnet.cli import main
from testnet.events import EventFollower
from testnet.launch import is_alive, read_status
from testnet.network_file import NetworkFile, read_network_file
from tests.support.forked import Forked, command, forked

CLI = [sys.executable, "-m", "testnet.cli"]
COMMAND_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 60.0


def run_cli(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run one command with --json; its exit code and its one object.

    In this process: an interpreter and its imports for each would take longer than most commands.
    """
    said, told = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(told):
        code = main([*arguments, "--json"])
    return code, _read_object(said.getvalue(), told.getvalue())


def run_process(*arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> tuple[int, dict[str, Any]]:
    """As `run_cli`, by a process of its own, forked: for what takes signals, or stays."""
    with tempfile.TemporaryDirectory() as folder, command((*arguments, "--json"), Path(folder) / "log") as process:
        said, told = process.communicate(timeout_s)
    assert process.returncode is not None
    return process.returncode, _read_object(said, told)


def _read_object(said: str, told: str) -> dict[str, Any]:
    assert len(said.splitlines()) == 1, (said, told)
    found: dict[str, Any] = json.loads(said)
    return found


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.05)


@dataclass
class Up:
    """A `testnet up` that runs as a process of its own."""

    directory: Path
    process: "Forked | subprocess.Popen[str]"

    @property
    def network(self) -> NetworkFile:
        return read_network_file(self.directory / "testnet.json")

    @property
    def pids(self) -> dict[str, int]:
        return {node.name: node.pid for node in self.network.nodes}

    def follow(self) -> EventFollower:
        return EventFollower([self.directory / node.directory for node in self.network.nodes])

    def get_status(self, name: str) -> dict[str, Any]:
        node = self.network.get_node(name)
        assert node is not None
        return read_status(self.directory, node)

    def wait_for_go(self) -> None:
        """Until the network is ready."""
        is_over = lambda: self.process.poll() is not None  # noqa: E731
        wait_until(lambda: (self.directory / "go").exists() or is_over(), "ready", READY_TIMEOUT_S)
        assert not is_over(), self.process.communicate()


@contextmanager
def start_network(directory: Path, *arguments: str) -> Iterator[Up]:
    """`testnet up` in a session of its own, forked; whatever is left of it is ended on the way out."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.with_name(f"{directory.name}-up.log")
    words = ("testnet", "up", "--dir", str(directory), *arguments, "--json")
    with command(words, log) as process, _ended(Up(directory, process)) as up:
        yield up


@contextmanager
def start_fresh_network(directory: Path, *arguments: str) -> Iterator[Up]:
    """As `start_network`, by an interpreter of its own and another for its zygote, as users start it."""
    words = [*CLI, "testnet", "up", "--dir", str(directory), *arguments, "--json"]
    with (
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process,
        _ended(Up(directory, process)) as up,
    ):
        yield up


@contextmanager
def _ended(up: Up) -> Iterator[Up]:
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.send_signal(signal.SIGTERM)
            try:
                up.process.communicate(timeout=COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                up.process.kill()


@contextmanager
def run_node_process(directory: Path) -> Iterator[Forked]:
    """`node run` on a data directory, ended by SIGTERM on the way out."""
    with forked("testnet.cli:main", ("node", "run", "--data", str(directory)), directory / "run.log") as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)


def find_descendants(pid: int) -> list[int]:
    """Every process below `pid`, children first."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    children = [int(word) for word in text.split()]
    return children + [below for child in children for below in find_descendants(child)]


def kill_hard(pid: int) -> None:
    """`kill -9`, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), f"process {pid} dead")
