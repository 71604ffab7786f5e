"""A process that runs one model: `python -m roles.engine.worker PARENT_PID`, frames on stdin and stdout.

It binds itself before it reads a byte: it dies with its parent, cannot grow past its memory limit, write files or dump
core, its working folder is empty and gone, and it is walled in by `sandbox`. Its first frame says how far that went on
this kernel. The pool bounds its time; a limit on processor time holds should the pool itself be stopped.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from importlib import import_module
from io import FileIO, RawIOBase
from typing import BinaryIO

from roles.engine.errors import EngineError
from roles.engine.frames import Bound, Failed, Message, Run, find_frame, pack_frame, take_frame
from roles.engine.profile import get_isa
from roles.engine.sandbox import Measure, isolate, lock

# onnxruntime and numpy map about 200 MiB before the first model.
MEMORY_BYTES_MAX = 1_088 * 1024 * 1024
FILES_MAX = 64
CPU_S_MAX = 120  # for one load or run
HOLD_S = 0.006  # an answer may wait for the next ones
READ_BYTES_MAX = 64 * 1024
_PR_SET_PDEATHSIG = 1


def run() -> None:
    """The process's life. Its argument is the parent's number."""
    sink = take_stdout()
    serve(FileIO(0, closefd=False), sink, shut_in(int(sys.argv[1])))


def bind_process(parent_pid: int) -> Measure:
    """Give up what a model needs not have. Exits at once when the parent is already gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # A parent that died before the call above sends no signal.
        if os.getppid() != parent_pid:
            sys.exit("the parent is gone")
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (value, value))
    # The parent asks workers to stop; Ctrl-C in a terminal reaches the whole group and is not for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The pool made this folder for us alone. Without it no relative name leads anywhere.
    os.rmdir(os.getcwd())
    return Measure("rlimits")


def shut_in(parent_pid: int) -> tuple[Measure, ...]:
    """Everything this process gives up, in the one order that works, and what came of it."""
    limits, namespaces = bind_process(parent_pid), isolate()
    # After the limits, before the locks: these read hundreds of files.
    import_module("roles.engine.desk")
    get_isa()
    return namespaces, *lock(), limits


def take_stdout() -> BinaryIO:
    """The pipe to the pool. Whatever native code prints goes to stderr from now on, not between the frames."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def serve(source: RawIOBase, sink: BinaryIO, measures: tuple[Measure, ...]) -> None:
    """Load the model of the first frame, then answer what is asked of it until the pipe is closed.

    Answers to runs that came together leave together, as long as none waits for HOLD_S: whoever reads them is woken
    less.
    """
    from roles.engine.desk import Desk

    write_message(sink, Bound(measures))
    desk, frames, held_s = Desk(), Frames(source), 0.0
    while message := frames.read():
        began_s, size = time.monotonic(), frames.size
        _limit_cpu()
        try:
            reply = desk.answer(message)
        except EngineError as error:
            reply = Failed(error.code, _clip(str(error)))
        if reply is None:
            sys.exit(f"a {type(message).__name__} frame out of turn")
        sink.write(pack_frame(reply))
        took_s = time.monotonic() - began_s
        held_s += took_s
        # A run whose frame is no larger is of no more rows, and those are all that a model's time hangs on.
        is_next_as_quick = isinstance(message, Run) and 0 < frames.next_size <= size
        if not is_next_as_quick or held_s + took_s > HOLD_S:
            sink.flush()
            held_s = 0.0


class Frames:
    """Takes frames from a pipe, as many at once as there are."""

    def __init__(self, source: RawIOBase) -> None:
        self._source = source
        self._received = bytearray()
        self.size = 0  # bytes of the last one

    def read(self) -> Message | None:
        """The next one, waited for; None when the pipe is closed."""
        while not self.next_size:
            chunk = self._source.read(READ_BYTES_MAX)
            if not chunk:
                return None
            self._received += chunk
        self.size = self.next_size
        return take_frame(self._received, self.size)

    @property
    def next_size(self) -> int:
        """Bytes of the next one, if it is here as a whole, else 0."""
        return find_frame(self._received)


def _limit_cpu() -> None:
    """CPU_S_MAX from now on. The kernel then ends us, also when nobody looks."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + CPU_S_MAX
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def write_message(sink: BinaryIO, message: Message) -> None:
    sink.write(pack_frame(message))
    sink.flush()


def _clip(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:500].decode("utf-8", "ignore")


if __name__ == "__main__":
    run()
