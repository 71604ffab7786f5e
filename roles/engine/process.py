"""One worker process as the pool sees it: started, spoken to frame by frame, killed and reaped."""

import os
import select
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import trio

from protocol.errors import MalformedMessage
from roles.engine.errors import WorkerCrashed
from roles.engine.frames import HEAD_BYTES, Message, find_frame, pack_frame, parse_body, parse_head, take_frame

STDERR_BYTES_MAX = 4_096
END_TIMEOUT_S = 1.0  # how long we wait for a process that closed its pipe to end
POLL_S = 0.05
WORKER = "roles.engine.worker"
PROBE = "roles.engine.probe"
_SOURCE = str(Path(__file__).resolve().parents[2])
_READ_BYTES_MAX = 256 * 1024
FRAME_NOW_BYTES_MAX = select.PIPE_BUF  # a pipe takes so much as a whole or not at all


class WorkerProcess:
    """Owns one process and its pipes. `watch` must run for as long as the process lives; it reaps it.

    OSError when the system gives no process, pipe or folder. `module` is run in it.
    """

    def __init__(self, module: str = WORKER) -> None:
        # In the loop's own thread, though it blocks for a few milliseconds: the kernel ends the worker when the
        # *thread* that started it ends, and trio's helper threads come and go.
        self._folder = tempfile.mkdtemp(prefix="rolemesh-worker-")
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._folder,
                env=_build_environment(),
                bufsize=0,
            )
            undo.callback(self._popen.wait)
            undo.callback(self._popen.kill)
            self._stdin = _take_pipe(self._popen.stdin)
            self._stdout = _take_pipe(self._popen.stdout)
            self._stderr = _take_pipe(self._popen.stderr)
            undo.pop_all()
        self._tail = b""
        self._received = bytearray()  # less than a frame and a read more
        self._ended = trio.Event()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stderr(self) -> str:
        """The tail of what it wrote, for people."""
        return self._tail.decode("utf-8", "replace").strip()

    async def exchange(self, message: Message) -> Message:
        """Send one frame, get one. Raises like `ask`."""
        return await self.ask(pack_frame(message))

    async def receive(self) -> Message:
        """Get one frame without asking: the first, or what answers `send_now`. Raises like `ask`."""
        return await self.ask(b"")

    async def ask(self, frame: bytes) -> Message:
        """Send a packed frame, if there is one, and get one.

        WorkerCrashed when the process ends first or answers nonsense. Cancelled half-way, the pipe is out of step: kill
        the process then.
        """
        try:
            if frame:
                await self._stdin.send_all(frame)
            size, kind = parse_head(await self._receive(HEAD_BYTES))
            return parse_body(kind, await self._receive(size))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            with trio.move_on_after(END_TIMEOUT_S):
                await self._ended.wait()
            status = self._popen.returncode
            how = "closed its pipe" if status is None else f"ended with status {status}"
            raise WorkerCrashed(f"the worker process {how}", self.stderr) from error
        except MalformedMessage as error:
            raise WorkerCrashed(f"the worker process answered with no frame: {error}", self.stderr) from error

    def take_now(self) -> Message | None:
        """A frame that has come already, as a whole. None also for nonsense, of which `receive` tells."""
        try:
            size = find_frame(self._received)
            return take_frame(self._received, size) if size else None
        except MalformedMessage:
            return None

    def send_now(self, frame: bytes) -> bool:
        """Whether a frame of at most FRAME_NOW_BYTES_MAX is on its way as a whole; if not, no byte of it is."""
        try:
            return os.write(self._stdin.fileno(), frame) == len(frame)
        except OSError:  # no room, or nobody reads any more: whoever waits for the answer hears of that
            return False

    def kill(self) -> None:
        """At once and for certain; `watch` then ends."""
        if self._popen.returncode is None:
            self._popen.kill()

    async def watch(self) -> None:
        """Collect stderr until the process ends, then reap it. Cancelled, it kills the process first."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_stderr)
                await _wait_exit(self._popen)
                nursery.cancel_scope.deadline = trio.current_time() + END_TIMEOUT_S
        finally:
            self.kill()
            with trio.CancelScope(shield=True):
                await _wait_exit(self._popen)
                self._popen.wait()
                self._ended.set()
                for stream in (self._stdin, self._stdout, self._stderr):
                    await stream.aclose()
            shutil.rmtree(self._folder, ignore_errors=True)  # only there still if the worker died in its first moments

    async def _receive(self, size: int) -> bytes:
        received = self._received
        while len(received) < size:
            chunk = await self._stdout.receive_some(_READ_BYTES_MAX)
            if not chunk:
                raise trio.BrokenResourceError("end of the pipe")
            received += chunk
        data = bytes(received[:size])
        del received[:size]
        return data

    async def _read_stderr(self) -> None:
        async for chunk in self._stderr:
            self._tail = (self._tail + chunk)[-STDERR_BYTES_MAX:]


async def _wait_exit(popen: subprocess.Popen[bytes]) -> None:
    """Return when the process has ended, whether or not it was reaped."""
    if popen.returncode is not None:
        return
    try:
        fd = os.pidfd_open(popen.pid)
    except (AttributeError, OSError):  # not Linux, or a kernel or sandbox without it
        while popen.poll() is None:
            await trio.sleep(POLL_S)
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


def _take_pipe(pipe: IO[bytes] | None) -> trio.lowlevel.FdStream:
    assert pipe is not None
    stream = trio.lowlevel.FdStream(os.dup(pipe.fileno()))
    pipe.close()
    return stream


def _build_environment() -> dict[str, str]:
    """Nothing of ours but where Python and this package are. One thread each, set before numpy is imported."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    paths = [_SOURCE] + [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return kept | threads | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
