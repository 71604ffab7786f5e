"""A process that runs one model: `python -m roles.engine.worker PARENT_PID`, frames on stdin and stdout.

It binds itself before it reads a byte: it dies with its parent, cannot grow past its memory limit, write files or dump
core, and its working folder is empty and gone. The pool bounds its time.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import BinaryIO

from roles.engine.errors import EngineError
from roles.engine.frames import HEAD_BYTES, Failed, Load, Loaded, Message, Ran, Run, pack_frame, parse_body, parse_head

# onnxruntime and numpy map about 200 MiB before the first model.
MEMORY_BYTES_MAX = 1_088 * 1024 * 1024
FILES_MAX = 64
_PR_SET_PDEATHSIG = 1


def bind_process(parent_pid: int) -> None:
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


def take_stdout() -> BinaryIO:
    """The pipe to the pool. Whatever native code prints goes to stderr from now on, not between the frames."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Load the model of the first frame, then answer runs until the pipe is closed."""
    from roles.engine.session import Session, load_session, run_session  # after the limits: imports onnxruntime

    session: Session | None = None
    while message := _read_message(source):
        reply: Message
        try:
            if isinstance(message, Load):
                session = load_session(message.model, message.optimise)
                reply = Loaded(session.inputs, session.outputs)
            elif isinstance(message, Run) and session is not None:
                reply = Ran(*run_session(session, message.inputs))
            else:
                sys.exit(f"a {type(message).__name__} frame out of turn")
        except EngineError as error:
            reply = Failed(error.code, _clip(str(error)))
        sink.write(pack_frame(reply))
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
    bind_process(int(sys.argv[1]))
    serve(sys.stdin.buffer, take_stdout())
