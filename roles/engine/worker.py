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
from typing import BinaryIO

from roles.engine.errors import EngineError
from roles.engine.frames import HEAD_BYTES, Bound, Failed, Message, pack_frame, parse_body, parse_head
from roles.engine.profile import get_isa
from roles.engine.sandbox import Measure, isolate, lock

# onnxruntime and numpy map about 200 MiB before the first model.
MEMORY_BYTES_MAX = 1_088 * 1024 * 1024
FILES_MAX = 64
CPU_S_MAX = 120  # for one load or run
_PR_SET_PDEATHSIG = 1


def run() -> None:
    """The process's life. Its argument is the parent's number."""
    sink = take_stdout()
    serve(sys.stdin.buffer, sink, shut_in(int(sys.argv[1])))


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


def serve(source: BinaryIO, sink: BinaryIO, measures: tuple[Measure, ...]) -> None:
    """Load the model of the first frame, then answer what is asked of it until the pipe is closed."""
    from roles.engine.desk import Desk

    write_message(sink, Bound(measures))
    desk = Desk()
    while message := _read_message(source):
        _limit_cpu()
        try:
            reply = desk.answer(message)
        except EngineError as error:
            reply = Failed(error.code, _clip(str(error)))
        if reply is None:
            sys.exit(f"a {type(message).__name__} frame out of turn")
        write_message(sink, reply)


def _limit_cpu() -> None:
    """CPU_S_MAX from now on. The kernel then ends us, also when nobody looks."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + CPU_S_MAX
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def write_message(sink: BinaryIO, message: Message) -> None:
    sink.write(pack_frame(message))
    sink.flush()


def _read_message(source: BinaryIO) -> Message | None:
    head = source.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    size, kind = parse_head(head)
    return parse_body(kind, source.read(size))


def _clip(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:500].decode("utf-8", "ignore")


if __name__ == "__main__":
    run()
