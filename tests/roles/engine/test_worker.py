"""The worker process itself: what it may do, and how it takes frames that make no sense."""

import io
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MalformedMessage
from protocol.proofs.trace import Exhibit, Given, OperatorRun, RunOperator, TracedRun, TraceModel
from protocol.tensor import Tensor
from roles.engine.errors import WorkerCrashed
from roles.engine.frames import (
    HEAD_BYTES,
    Bound,
    Failed,
    Load,
    Loaded,
    Ran,
    Run,
    pack_frame,
    parse_body,
    parse_head,
)
from roles.engine.process import WORKER, WorkerProcess
from roles.engine.sandbox import Measure
from roles.engine.session import load_session, run_session
from roles.engine.worker import FILES_MAX, MEMORY_BYTES_MAX, Frames, serve
from tests.support.onnx_bytes import FLOAT, int64s, many_products, model, node, unary, value_info

ROOT = Path(__file__).parents[3]
# 2^34 floats: more than the memory limit, in a file of 200 bytes.
HUNGRY = model(
    [node("Expand", ["x", "shape"], ["wide"]), node("ReduceMax", ["wide"], ["y"])],
    [value_info("x", FLOAT, (1, 1))],
    [value_info("y", FLOAT, (1, 1))],
    (int64s("shape", 2**17, 2**17),),
)


SLOW = many_products(3_000, 1_500, is_constant=False)  # minutes of one kernel after the other


def talk(conversation, module=WORKER):
    """Run `conversation(process)` against one worker process that has said what binds it."""

    async def main():
        with trio.fail_after(60):
            process = WorkerProcess(module)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.watch)
                try:
                    assert isinstance(await process.receive(), Bound)
                    return await conversation(process)
                finally:
                    process.kill()

    return trio.run(main)


@pytest.mark.parametrize(
    "message",
    [
        Bound((Measure("landlock", "the kernel has none"), Measure("rlimits"))),
        Load(b"model", "all"),
        Loaded((), ()),
        Run((Tensor("uint8", (1,), b"x"),)),
        Ran((), "ort=1"),
        Failed("bad_input", "no"),
        TraceModel((Tensor("uint8", (1,), b"x"),), 3),
        TracedRun(bytes(64), Exhibit((Given(0, (Tensor("float32", (0, 2), b""),)),)), "ort=1"),
        RunOperator(2, Exhibit(())),
        OperatorRun(2, b"", "takes others", "ort=1"),
    ],
)
def test_a_frame_comes_out_as_it_went_in(message):
    frame = pack_frame(message)

    size, kind = parse_head(frame[:5])

    assert size == len(frame) - 5
    assert parse_body(kind, frame[5:]) == message


@pytest.mark.parametrize("head", [b"\xff\xff\xff\xff\x01", b"\0\0\0\1\x7f"])
def test_a_frame_that_is_too_long_or_of_no_kind_is_refused_by_its_head(head):
    with pytest.raises(MalformedMessage):
        parse_head(head)


class Pieces(io.RawIOBase):
    """What a pipe gives, one piece a read."""

    def __init__(self, pieces):
        self.pieces = list(pieces)

    def read(self, size=-1):
        return self.pieces.pop(0) if self.pieces else b""


class Flushed(io.BytesIO):
    """How many bytes were there at each flush."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def flush(self):
        self.sizes.append(self.tell())


def make_run(size):
    return Run((Tensor("uint8", (size,), bytes(size)),))


def serve_all(monkeypatch, pieces, hold_s=60.0):
    """How many answers each flush sent, the first one, which tells what binds the process, left out."""
    monkeypatch.setattr("roles.engine.desk.Desk.answer", lambda self, message: Failed("bad_input", "no"))
    monkeypatch.setattr("roles.engine.worker.HOLD_S", hold_s)
    monkeypatch.setattr(
        "roles.engine.worker._limit_cpu", lambda: None
    )  # it would end this process, and coarsens its clock
    sink = Flushed()
    serve(Pieces(pieces), sink, ())
    first, *rest = sink.sizes
    step = len(pack_frame(Failed("bad_input", "no")))
    return [(end - begin) // step for begin, end in zip([first, *rest], rest, strict=False)]


@given(st.lists(st.integers(0, 40), max_size=6), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_frames_are_the_same_however_they_come(sizes, steps):
    messages = [make_run(size) for size in sizes]
    data, pieces, at = b"".join(map(pack_frame, messages)) + b"\0\0", [], 0
    while at < len(data):
        step = steps[len(pieces) % len(steps)]
        pieces.append(data[at : at + step])
        at += step
    frames = Frames(Pieces(pieces))

    assert [frames.read() for _ in messages] == messages
    assert frames.read() is None  # torn


def test_answers_to_what_came_together_leave_together(monkeypatch):
    frame = pack_frame(make_run(3))

    assert serve_all(monkeypatch, [frame * 3, frame, frame * 2 + frame[:4], frame[4:]]) == [3, 1, 2, 1]


def test_an_answer_does_not_wait_for_a_run_that_may_take_longer(monkeypatch):
    small, large = pack_frame(make_run(3)), pack_frame(make_run(300))

    assert serve_all(monkeypatch, [small + large + small + small]) == [1, 3]
    assert serve_all(monkeypatch, [small * 3], hold_s=0.0) == [1, 1, 1]


def test_no_answer_waits_longer_than_it_may(monkeypatch):
    clock = iter(range(100))  # a run takes a second
    monkeypatch.setattr("roles.engine.worker.time.monotonic", lambda: next(clock))

    assert serve_all(monkeypatch, [pack_frame(make_run(3)) * 8], hold_s=3.5) == [3, 3, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_is_bound_before_it_loads_anything():
    async def conversation(process):
        assert isinstance(await process.exchange(Load(unary("Neg"), "all")), Loaded)
        proc = Path(f"/proc/{process.pid}")
        open_files = {os.readlink(each).partition(":")[0] for each in (proc / "fd").iterdir()}
        threads = len(list((proc / "task").iterdir()))
        assert (open_files, threads) == ({"pipe"}, 1)
        limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()[1:]}
        return limits, os.readlink(proc / "cwd"), (proc / "environ").read_bytes().split(b"\0")

    limits, folder, environment = talk(conversation)

    assert limits["Max address space"] == str(MEMORY_BYTES_MAX)
    assert limits["Max file size"] == limits["Max core file size"] == "0"
    assert limits["Max open files"] == str(min(FILES_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert folder.endswith("(deleted)")
    assert b"OPENBLAS_NUM_THREADS=1" in environment
    assert not any(line.startswith(b"HOME=") for line in environment)


def test_a_model_that_wants_more_memory_than_there_is_fails_and_the_worker_lives_on():
    async def conversation(process):
        await process.exchange(Load(HUNGRY, "disable"))
        run = Run((Tensor("float32", (1, 1), bytes(4)),))
        return await process.exchange(run), await process.exchange(run)

    for reply in talk(conversation, "tests.support.unguarded_worker"):
        assert isinstance(reply, Failed)
        assert reply.code == "compute_failed"


def test_a_frame_out_of_turn_ends_the_worker_and_its_last_words_are_kept():
    async def conversation(process):
        with pytest.raises(WorkerCrashed) as caught:
            await process.exchange(Run(()))
        return caught.value

    crash = talk(conversation)

    assert "ended with status 1" in str(crash)
    assert "a Run frame out of turn" in crash.stderr


def test_a_worker_whose_pipe_closes_ends_by_itself(tmp_path):
    worker = subprocess.run(
        [sys.executable, "-m", "roles.engine.worker", str(os.getpid())],
        input=b"",
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
    )

    assert worker.returncode == 0
    size, kind = parse_head(worker.stdout[:HEAD_BYTES])
    assert isinstance(parse_body(kind, worker.stdout[HEAD_BYTES:]), Bound)
    assert size == len(worker.stdout) - HEAD_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="counts processor time as Linux does")
def test_a_worker_whose_pool_does_not_look_is_ended_by_the_kernel(tmp_path):
    # Nobody reads its answer and nobody kills it, as when the node is stopped in a debugger.
    code = "from roles.engine import worker; worker.CPU_S_MAX = 1; worker.run()"
    frames = pack_frame(Load(SLOW, "disable")) + pack_frame(Run((Tensor("float32", (1,), bytes(4)),)))
    worker = subprocess.run(
        [sys.executable, "-c", code, str(os.getpid())],
        input=frames,
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        timeout=60,
    )

    assert worker.returncode == -signal.SIGXCPU


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the measures")
def test_what_comes_out_of_the_sandbox_is_what_comes_out_without_it():
    rows = np.random.default_rng(6).integers(0, 17, (8, 64))
    cases = [("digits.onnx", "uint8"), ("digits-fp32.onnx", "float32")]
    for name, dtype in cases:
        data = (ROOT / "testnet" / "models" / name).read_bytes()
        inputs = (Tensor(dtype, rows.shape, rows.astype(dtype).tobytes()),)

        async def conversation(process, data=data, inputs=inputs):
            await process.exchange(Load(data, "all"))
            return await process.exchange(Run(inputs))

        assert talk(conversation) == Ran(*run_session(load_session(data), inputs))


def test_a_worker_of_a_parent_that_is_gone_does_not_start(tmp_path):
    worker = subprocess.run(
        [sys.executable, "-m", "roles.engine.worker", "1"],
        stdin=subprocess.PIPE,
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
    )

    assert b"the parent is gone" in worker.stderr
