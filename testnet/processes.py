"""Start processes that never outlive whoever started them, and end them for sure.

One small process, the zygote, imports libp2p once and then forks every node: a node costs a fork instead of an import.
It starts no thread, opens no event loop and makes no key before it forks. It takes orders as JSON lines on its standard
input and reports on its standard output. When its parent is gone, by whatever death, the
kernel signals it; the same bond ties every node to the zygote, so nothing survives a killed launcher.
Where fork is not wanted (or not Linux), nodes are started as fresh interpreters instead.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testnet.give_way import give_way

GRACE_S = 5.0  # from SIGTERM to SIGKILL
ORDER_BYTES_MAX = 1024 * 1024
PR_SET_PDEATHSIG = 1
# Thread pools of numerical libraries start at import; a process that forks must not have any.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def bind_to_parent(parent: int, signal_number: int) -> None:
    """Ask the kernel to signal this process when its parent dies. Ends at once if the parent is dead already."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def run_callable(target: str, arguments: list[str]) -> int:
    """Run `module:function(arguments) -> exit code`."""
    module, _, function = target.partition(":")
    result = getattr(importlib.import_module(module), function)(arguments)
    return int(result or 0)


@dataclass
class Zygote:
    """The zygote's own side: forks on order, reaps, reports."""

    spawn: bool
    grace_s: float
    children: dict[int, str] = field(default_factory=dict)

    def serve(self) -> None:
        """Take orders until standard input ends or a signal says stop, then end every child."""
        # A signal writes one byte into this pipe, so that waiting for orders also waits for children.
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer)
        is_stopping = False

        def stop(*_: object) -> None:
            nonlocal is_stopping
            is_stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(reader, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        _report("ready", pid=os.getpid())
        pending = b""
        while not is_stopping:
            for key, _ in selector.select():
                data = os.read(key.fd, 65536)
                if key.fd == 0 and not data:
                    is_stopping = True
                elif key.fd == 0:
                    *lines, pending = (pending + data).split(b"\n")
                    if len(pending) > ORDER_BYTES_MAX:
                        raise ValueError("an order is longer than ORDER_BYTES_MAX")
                    for line in lines:
                        self.obey(json.loads(line))
            self.reap()
        selector.unregister(0)
        self.end_all(selector)

    def obey(self, order: Mapping[str, Any]) -> None:
        """Carry out `start` or `signal`."""
        match order["do"]:
            case "start":
                pid = self._spawn(order) if self.spawn else self._fork(order)
                self.children[pid] = order["name"]
                _report("started", name=order["name"], pid=pid)
            case "signal":
                for pid, name in self.children.items():
                    if name == order["name"]:
                        os.kill(pid, order["signal"])
            case unknown:
                raise ValueError(f"unknown order {unknown!r}")

    def reap(self) -> None:
        """Report every child that has ended."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self.children.pop(pid, None)
            if name is not None:
                _report("exited", name=name, pid=pid, code=os.waitstatus_to_exitcode(status))

    def end_all(self, selector: selectors.BaseSelector) -> None:
        """SIGTERM to every child, `grace_s` to leave, then SIGKILL to it and all of its session's group."""
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        self.reap()
        while self.children and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                os.read(key.fd, 65536)
            self.reap()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):  # a child so young that it leads no group yet
                os.killpg(pid, signal.SIGKILL)
        while self.children:
            selector.select()
            self.reap()

    def _fork(self, order: Mapping[str, Any]) -> int:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become_child(parent, order)
        return pid

    def _spawn(self, order: Mapping[str, Any]) -> int:
        code = "import sys; from testnet.processes import main_spawned; main_spawned(sys.argv[1:])"
        own = (str(os.getpid()), str(order["niceness"]))
        command = [sys.executable, "-c", code, *own, order["target"], *order["arguments"]]
        with Path(order["log"]).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process.returncode = 0  # reaped by `reap`; keeps Popen from waiting for it as well
        return process.pid


def _become_child(parent: int, order: Mapping[str, Any]) -> None:
    """After a fork: forget all that was the zygote's, then run the target. Never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        bind_to_parent(parent, signal.SIGKILL)
        give_way(order["niceness"])
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)
        _seed_generators(order["name"], order["seed"])
        code = run_callable(order["target"], order["arguments"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _seed_generators(name: str, seed: int) -> None:
    """Forked twins share the state of every generator; give each its own."""
    own = zlib.crc32(f"{seed}/{name}".encode())
    random.seed(own)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(own)


def main_spawned(arguments: list[str]) -> None:
    """Entry of a node that was spawned instead of forked."""
    bind_to_parent(int(arguments[0]), signal.SIGKILL)
    give_way(int(arguments[1]))
    sys.exit(run_callable(arguments[2], arguments[3:]))


def _report(event: str, **fields: object) -> None:
    # A launcher that was killed reads no more reports; its children must be ended all the same.
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """`python -m testnet.processes PARENT_PID fork|spawn GRACE_S MODULE…`: be the zygote, these modules imported."""
    bind_to_parent(int(arguments[0]), signal.SIGTERM)
    spawn = arguments[1] == "spawn" or sys.platform != "linux"
    if not spawn:
        for name in arguments[3:]:
            importlib.import_module(name)
        gc.freeze()  # what is imported stays shared: no collector touches its pages in a child
    Zygote(spawn, float(arguments[2])).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
