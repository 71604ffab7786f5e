"""The zoo of hostile models against a real pool, with admission and without: none hurts the node or its other work."""

import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
import trio

from protocol.content import compute_digest
from protocol.tensor import Tensor
from roles.engine import crew as crews
from roles.engine import pool as pools
from roles.engine.admission import verify_model
from roles.engine.errors import EngineError, ModelRefused
from roles.engine.frames import Load
from roles.engine.inline import InlineEngine
from roles.engine.process import WORKER, WorkerProcess
from tests.roles.engine.zoo import DIGITS, ZOO

LOAD_TIMEOUT_S, RUN_TIMEOUT_S, GRACE_S = 2.0, 0.5, 0.5
PATIENCE_S = 280
RSS_GROWTH_MAX = 50 * 1024 * 1024
GOOD = compute_digest(DIGITS)
PIXELS = (Tensor("uint8", (1, 64), bytes(range(16)) * 4),)
UNGUARDED = "tests.support.unguarded_worker"
# Without admission most of the zoo is refused by onnxruntime at once, each for the price of a process. These are not:
# each stands for one way to be stopped, by the clock at a load and at a run, by memory, by the filesystem, by a crash.
FIERCE = [
    "a product of large constants", "a constant of 100 GB", "a loop without end", "data beside", "a hog",
    "an answer that is no number", "a division that stops the process",
]  # fmt: skip
# What a file may end in once onnxruntime has it: said, or killed. Nothing else comes out of a pool.
ENDS = {"ModelRefused", "ComputeFailed", "ComputeTimedOut", "WorkerCrashed", "BadInput", "answered"}


class WatchedProcess(WorkerProcess):
    """Notes how long it was at a load or a run, and how long it took to be gone once killed."""

    all: ClassVar[list[WorkerProcess]] = []

    def __init__(self, module):
        super().__init__(module)
        self.began_s = self.limit_s = self.over_s = 0.0
        self.is_killed = False
        WatchedProcess.all.append(self)

    async def exchange(self, message):
        self.began_s = time.monotonic()
        self.limit_s = LOAD_TIMEOUT_S if isinstance(message, Load) else RUN_TIMEOUT_S
        reply = await super().exchange(message)
        self.limit_s = 0.0
        return reply

    def kill(self):
        self.is_killed = True
        super().kill()

    async def watch(self):
        try:
            await super().watch()
        finally:
            if self.limit_s and self.is_killed:
                self.over_s = time.monotonic() - self.began_s - self.limit_s


def rss_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ZOO)
def test_admission_says_what_it_found_and_lets_through_only_what_hurts_by_running(name):
    specimen = ZOO[name]
    if not specimen.refusal:
        verify_model(specimen.data)
        return
    with pytest.raises(ModelRefused) as caught:
        verify_model(specimen.data)
    assert specimen.refusal in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("module", "names"),
    [
        pytest.param(WORKER, list(ZOO), id="with admission"),
        pytest.param(UNGUARDED, FIERCE, id="the sandbox alone"),
        pytest.param(
            UNGUARDED, list(ZOO), id="the sandbox alone with all", marks=[pytest.mark.full, pytest.mark.timeout(300)]
        ),
    ],
)
def test_no_model_of_the_zoo_hurts_the_node(module, names, monkeypatch, tmp_path):
    monkeypatch.setattr(crews, "WorkerProcess", WatchedProcess)
    monkeypatch.setattr(WatchedProcess, "all", [])
    # What "data beside" is after, if anybody's folder were the worker's.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    blobs = {compute_digest(specimen.data): specimen.data for specimen in ZOO.values()} | {GOOD: DIGITS}
    expected = InlineEngine(blobs.__getitem__).compute(GOOD, PIXELS)
    ends, answers, peaks = {}, Counter(), []

    async def load_blob(digest):
        return blobs[digest]

    async def try_specimens(pool, half):
        for name in half:
            specimen = ZOO[name]
            try:
                await pool.compute(compute_digest(specimen.data), specimen.inputs, PATIENCE_S)
                ends[name] = ("answered", "")
            except EngineError as error:
                ends[name] = (type(error).__name__, str(error))

    async def go_on_working(pool):
        while True:
            answers[await pool.compute(GOOD, PIXELS, PATIENCE_S) == expected] += 1
            peaks.append(rss_bytes())
            await trio.sleep(0.01)

    async def main():
        timeouts = {"load_timeout_s": LOAD_TIMEOUT_S, "run_timeout_s": RUN_TIMEOUT_S}
        async with pools.open_pool(load_blob, workers=2, module=module, **timeouts) as pool:
            await pool.prepare(GOOD, PATIENCE_S)
            before = rss_bytes()
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(go_on_working, pool)
                    async with trio.open_nursery() as visits:
                        for half in (names[::2], names[1::2]):
                            visits.start_soon(try_specimens, pool, half)
                    nursery.cancel_scope.cancel()
        return before

    before = trio.run(main)
    assert set(ends) == set(names)
    assert {end for end, _ in ends.values()} <= ENDS
    assert max(process.over_s for process in WatchedProcess.all) <= GRACE_S
    assert max(peaks) - before <= RSS_GROWTH_MAX
    assert answers.keys() == {True}
    assert answers[True] > 20
    if module == WORKER:
        assert [name for name, specimen in ZOO.items() if ends[name][0] not in specimen.ends.split()] == []
        assert [name for name, specimen in ZOO.items() if specimen.refusal not in ends[name][1]] == []
