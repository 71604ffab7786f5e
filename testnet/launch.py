"""Run a network of processes: start them through the zygote, watch them come up, see who dies, end them all.

The launcher is an ordinary synchronous program. It holds a lock on the network's directory while it runs; nodes tell it
how they are through their `status.json`, so a node started again by hand is seen just the same.
"""

import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from testnet.network_file import FILE_NAME, LOCK_NAME, NetworkFile, NodeEntry, write_network_file
from testnet.processes import GRACE_S, SINGLE_THREADED

FEED_SERVER = "feed"
NODE = "roles.node:main"
# Whoever asks for inference seldom waits for these: on a machine that all share they yield to those it waits for.
NICENESS = {"validator": 4, "storage": 4, "oracle": 4}
WARM_MODULES = (
    *("httpx", "httpcore", "p2p.libp2p_net", "roles.node", "testnet.load", "testnet.feed_server"),
    *("roles.client_role", "roles.inference", "roles.validator", "roles.verifier"),
)
POLL_S = 0.1
KILL_S = 5.0  # for the zygote to reap what it had to kill
STATUS_BYTES_MAX = 1024 * 1024
LIVE_STATES = ("serving", "observing")


class LaunchError(Exception):
    """The network cannot be started, or stopped by itself. The message says why."""


class DirectoryInUse(LaunchError):
    """Another launcher runs in this directory."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP: whoever runs the launcher wants it to end in good order."""


@dataclass(frozen=True)
class Program:
    """One process to start: `target` is `module:function`, called with `arguments`. See `processes.give_way`."""

    name: str
    target: str
    arguments: tuple[str, ...]
    log: Path
    niceness: int = 0


@dataclass
class Launcher:
    """The processes of one network. Use as a context manager: on the way out all of them are ended."""

    directory: Path
    network: NetworkFile
    spawn: bool = False
    warm: tuple[str, ...] = WARM_MODULES  # what the zygote imports before it forks
    grace_s: float = GRACE_S  # from SIGTERM to SIGKILL
    pids: dict[str, int] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    listener: socket.socket | None = None  # when someone calls there, `on_call` is to answer
    on_call: Callable[[], None] = lambda: None
    _zygote: "subprocess.Popen[bytes] | None" = None
    _pending: bytes = b""

    def __enter__(self) -> "Launcher":
        mode = "spawn" if self.spawn else "fork"
        with (self.directory / "logs" / "zygote.log").open("ab") as log:
            self._zygote = start_zygote([str(os.getpid()), mode, str(self.grace_s), *self.warm], log)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, programs: list[Program]) -> None:
        """Order the zygote to start these, in this order."""
        for program in programs:
            self._order(
                do="start",
                name=program.name,
                target=program.target,
                arguments=program.arguments,
                log=str(program.log),
                niceness=program.niceness,
                seed=self.network.seed,
            )

    def kill(self, name: str, signal_number: int) -> None:
        """Signal one process."""
        self._order(do="signal", name=name, signal=signal_number)

    def poll(self, timeout_s: float) -> None:
        """Take in what the zygote reports, waiting at most `timeout_s` for it. Raises LaunchError when it is gone."""
        assert self._zygote is not None
        assert self._zygote.stdout is not None
        stdout = self._zygote.stdout
        for source in _find_readable([stdout, *([self.listener] if self.listener is not None else [])], timeout_s):
            if source is not stdout:
                self.on_call()
                continue
            data = os.read(stdout.fileno(), 65536)
            if not data:
                raise LaunchError(f"the zygote died; see {self.directory / 'logs' / 'zygote.log'}")
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def wait(self, is_over: Callable[[], bool], timeout_s: float, on_tick: Callable[[], None]) -> bool:
        """Poll until `is_over()`; False when `timeout_s` passes first. `on_tick` runs about ten times a second."""
        deadline = time.monotonic() + timeout_s
        while not is_over():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.poll(min(POLL_S, left))
            on_tick()
        return True

    def record_pids(self) -> None:
        """Write the process ids into the network file."""
        self.network = self.network.with_pids(self.pids, os.getpid())
        write_network_file(self.directory / FILE_NAME, self.network)

    def end(self) -> None:
        """End every process: closing the zygote's input makes it end its children, then itself."""
        zygote = self._zygote
        if zygote is None:
            return
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        with suppress(BrokenPipeError):  # it is dead already, and the kernel has ended its children
            zygote.stdin.close()
        try:
            zygote.wait(self.grace_s + KILL_S)
        except subprocess.TimeoutExpired:
            zygote.kill()
            zygote.wait()
        zygote.stdout.close()
        self._zygote = None

    def _order(self, **fields: object) -> None:
        assert self._zygote is not None
        assert self._zygote.stdin is not None
        try:
            self._zygote.stdin.write(json.dumps(fields).encode() + b"\n")
            self._zygote.stdin.flush()
        except BrokenPipeError as error:
            raise LaunchError(f"the zygote died; see {self.directory / 'logs' / 'zygote.log'}") from error

    def _take(self, report: Mapping[str, Any]) -> None:
        match report["event"]:
            case "started":
                self.pids[report["name"]] = report["pid"]
                self.exits.pop(report["name"], None)
            case "exited":
                self.exits[report["name"]] = report["code"]


def start_zygote(arguments: list[str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """A zygote with these arguments (`processes.main`), which takes orders and reports over pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "testnet.processes", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **SINGLE_THREADED},
        start_new_session=True,  # Ctrl-C reaches the launcher alone, which then ends the others in order
    )


def _find_readable(sources: list[IO[bytes] | socket.socket], timeout_s: float) -> list[object]:
    """Those of `sources` that have something to say, waiting at most `timeout_s` for one."""
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout_s)]


@contextmanager
def hold_directory(directory: Path) -> Iterator[None]:
    """Hold the launcher's lock on a network directory. Raises DirectoryInUse."""
    path = directory / LOCK_NAME
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryInUse(f"a network runs in {directory} already") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def termination_raises() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated while inside, SIGINT KeyboardInterrupt.

    SIGINT too is set here because a shell starts what a script puts into the background with SIGINT ignored, and
    `kill -INT` has to end that as well.
    """

    def raise_terminated(number: int, _: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    before = {number: signal.signal(number, raise_terminated) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def plan_programs(directory: Path, network: NetworkFile, has_load: bool) -> list[Program]:
    """Every process of a network: the feed server, if any, and each node. Clients drive the load, if there is one."""
    logs = directory / "logs"
    programs = []
    if network.feed_url:
        programs.append(
            Program(FEED_SERVER, "testnet.launch:run_feed", (network.feed_url,), logs / f"{FEED_SERVER}.log")
        )
    for node in network.nodes:
        target = "testnet.load:main" if has_load and node.role == "client" else NODE
        programs.append(plan_node(directory, node, target))
    return programs


def plan_node(directory: Path, node: NodeEntry, target: str = NODE) -> Program:
    """The process of one node of the network in a directory."""
    log = directory / "logs" / f"{node.name}.log"
    return Program(node.name, target, (str(directory / node.directory),), log, NICENESS.get(node.role, 0))


def run_feed(arguments: list[str]) -> int:
    """Serve the recorded series at the URL given; runs as a process of its own."""
    from testnet.feed_server import main

    sys.argv = ["feed_server", "--listen", urlsplit(arguments[0]).netloc]
    main()
    return 0


def read_status(directory: Path, node: NodeEntry) -> dict[str, Any]:
    """What a node last wrote to its `status.json`; empty before it has, or when it cannot be read."""
    path = directory / node.directory / "status.json"
    try:
        if path.stat().st_size > STATUS_BYTES_MAX:
            return {}
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def is_alive(pid: int) -> bool:
    """Whether a process of this id runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
