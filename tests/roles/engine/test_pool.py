"""The pool against real worker processes: honest, slow, hostile and killed ones."""

import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from protocol.content import compute_digest
from protocol.errors import MissingBlob
from protocol.tensor import Tensor
from roles.engine import queue, verdicts
from roles.engine.errors import BadInput, Busy, ComputeFailed, ComputeTimedOut, ModelRefused, Withdrawn, WorkerCrashed
from roles.engine.inline import InlineEngine
from roles.engine.pool import open_pool
from roles.engine.queue import AHEAD_MAX, AHEAD_S
from roles.engine.specs import MODEL_BYTES_MAX
from tests.support.onnx_bytes import crashing, doubled, huge_constant, many_products, unary

ROOT = Path(__file__).parents[3]
DIGITS = (ROOT / "testnet" / "models" / "digits.onnx").read_bytes()
SLOW = many_products(3_000, 1_500, is_constant=False)  # minutes of one kernel after the other
SLOW_TO_LOAD = many_products(400, 3_000, is_constant=True)  # refused, but for the unguarded worker
CRASHING = crashing()
BLOBS = {
    compute_digest(data): data
    for data in (DIGITS, SLOW, SLOW_TO_LOAD, unary("Loop"), unary("Log"), unary("Neg"), CRASHING)
}
digits, slow, slow_to_load, loop, log, neg, crashes = BLOBS
UNGUARDED = "tests.support.unguarded_worker"
PIXELS = (Tensor("uint8", (1, 64), bytes(range(16)) * 4),)
ONE = (Tensor("float32", (1,), np.float32([1]).tobytes()),)
MINUS_ONE = (Tensor("int32", (1,), b"\xff" * 4),)
PAIR = (Tensor("float32", (1, 2), np.float32([0, 1]).tobytes()),)
PATIENCE_S = 60  # no job here takes a second on a quiet machine


async def load_blob(digest):
    if digest not in BLOBS:
        raise MissingBlob(digest)
    return BLOBS[digest]


@asynccontextmanager
async def bounded_pool(**options):
    with trio.fail_after(2 * PATIENCE_S):
        async with open_pool(load_blob, **options) as pool:
            yield pool


async def wait_until(condition):
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.005)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def wait_until_running(pool, model, inputs, nursery, results):
    """Start a job that ends in `results`, and wait until a worker really works on it."""

    async def run():
        try:
            results.append(await pool.compute(model, inputs, PATIENCE_S))
        except Exception as error:
            results.append(error)

    await pool.prepare(model, PATIENCE_S)
    nursery.start_soon(run)
    (pid,) = pool.pids

    def cpu_ticks():
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])

    before = cpu_ticks()
    await wait_until(lambda: cpu_ticks() > before + 2)
    return pid


def test_a_job_gives_what_the_session_gives_and_the_node_never_imports_onnxruntime():
    async def main():
        async with bounded_pool() as pool:
            first = await pool.compute(digits, PIXELS, PATIENCE_S)
            second = await pool.compute(digits, PIXELS, PATIENCE_S)
            assert first == second == InlineEngine(BLOBS.__getitem__).compute(digits, PIXELS)
            assert (pool.stats.started, pool.stats.completed) == (1, 2)

    trio.run(main)
    code = "import sys, roles.engine.pool; sys.exit('onnxruntime' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the measures")
def test_a_pool_knows_what_binds_its_workers_from_a_probe_before_the_first_job_and_from_workers_later():
    async def main():
        async with bounded_pool(probes=True) as pool:
            await wait_until(lambda: pool.measures)
            probed = pool.measures
            assert [each.name for each in probed] == ["namespaces", "landlock", "seccomp", "rlimits"]
            await pool.prepare(digits, PATIENCE_S)
            assert pool.measures == probed
            assert pool.measures is not probed
            assert pool.stats.started == 1
        async with bounded_pool() as pool:
            assert pool.measures == ()

    trio.run(main)


def test_a_process_that_begins_with_something_else_is_a_crash():
    async def main():
        async with bounded_pool(module="tests.support.rude_worker") as pool:
            with pytest.raises(WorkerCrashed, match="began with Loaded"):
                await pool.prepare(digits, PATIENCE_S)

    trio.run(main)


def test_preparing_tells_what_a_model_takes_and_gives():
    async def main():
        async with bounded_pool() as pool:
            inputs, outputs = await pool.prepare(digits, PATIENCE_S)
            assert [str(spec) for spec in (*inputs, *outputs)] == ["uint8 (rows, 64)", "int32 (rows, 10)"]

    trio.run(main)


def test_a_worker_past_its_deadline_is_killed_within_half_a_second_and_replaced():
    async def main():
        async with bounded_pool() as pool:
            await pool.prepare(slow, PATIENCE_S)
            (pid,) = pool.pids
            start = time.monotonic()
            with pytest.raises(ComputeTimedOut, match="still running after"):
                await pool.compute(slow, ONE, 0.3)
            await wait_until(lambda: not is_alive(pid))
            assert time.monotonic() - start < 0.3 + 0.5
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert pool.stats.timed_out == 1

    trio.run(main)


def test_the_event_loop_goes_on_while_a_worker_is_busy():
    async def main():
        async with bounded_pool() as pool, trio.open_nursery() as nursery:
            results = []
            pid = await wait_until_running(pool, slow, ONE, nursery, results)
            turns = 0
            with trio.move_on_after(0.3):
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1
            assert is_alive(pid)
            assert turns > 100
            nursery.cancel_scope.cancel()  # killed, its job would begin once more

    trio.run(main)


def test_a_worker_killed_twice_costs_its_own_job_only():
    async def main():
        async with bounded_pool() as pool:
            results = []
            async with trio.open_nursery() as nursery:
                first = await wait_until_running(pool, slow, ONE, nursery, results)
                os.kill(first, signal.SIGKILL)
                await wait_until(lambda: pool.stats.started == 2 and first not in pool.pids and pool.waiting == 0)
                os.kill(pool.pids[0], signal.SIGKILL)
            assert isinstance(results[0], WorkerCrashed)
            assert "ended with status -9" in str(results[0])
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]

    trio.run(main)


def test_killing_idle_workers_again_and_again_is_never_noticed_by_jobs():
    async def main():
        async with bounded_pool() as pool:
            for _ in range(5):
                assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
                (pid,) = pool.pids
                os.kill(pid, signal.SIGKILL)
                await wait_until(lambda pid=pid: pid not in pool.pids)
            assert pool.stats.started == 5

    trio.run(main)


def test_cancelling_a_job_ends_the_worker_that_runs_it():
    async def main():
        async with bounded_pool() as pool:
            async with trio.open_nursery() as nursery:
                pid = await wait_until_running(pool, slow, ONE, nursery, [])
                nursery.cancel_scope.cancel()
            await wait_until(lambda: not is_alive(pid))
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]

    trio.run(main)


def test_a_full_queue_says_so_at_once():
    async def main():
        async with bounded_pool(waiting_max=2) as pool, trio.open_nursery() as nursery:
            await wait_until_running(pool, slow, ONE, nursery, [])
            for _ in range(2):
                nursery.start_soon(pool.compute, slow, ONE, PATIENCE_S)
            await wait_until(lambda: pool.waiting == 2)
            with pytest.raises(Busy) as caught:
                await pool.compute(slow, ONE, PATIENCE_S)
            assert (caught.value.waiting, caught.value.waiting_max) == (2, 2)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_job_that_waits_past_its_deadline_leaves_the_running_one_alone():
    async def main():
        async with bounded_pool() as pool, trio.open_nursery() as nursery:
            pid = await wait_until_running(pool, slow, ONE, nursery, [])
            with pytest.raises(ComputeTimedOut, match="still waiting after"):
                await pool.compute(slow, ONE, 0.05)
            assert pool.pids == (pid,)
            assert pool.waiting == 0
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_job_taken_back_while_it_waits_ends_at_once_and_one_that_runs_goes_on():
    async def main():
        async with bounded_pool() as pool, trio.open_nursery() as nursery:
            pid = await wait_until_running(pool, slow, ONE, nursery, [])

            async def wait_in_vain():
                with pytest.raises(Withdrawn):
                    await pool.compute(slow, ONE, PATIENCE_S, "mine")

            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait_in_vain)
                await wait_until(lambda: pool.waiting == 1)
                assert not pool.withdraw("another's")
                assert pool.withdraw("mine")
            assert (pool.pids, pool.waiting) == ((pid,), 0)
            assert not pool.withdraw("mine")
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_model_that_never_ends_loading_is_killed_and_others_load_meanwhile():
    async def main():
        async with bounded_pool(load_timeout_s=4.0, module=UNGUARDED) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(pool.prepare, digits, PATIENCE_S)
            with pytest.raises(ComputeTimedOut, match="still loading after 4"):
                await pool.compute(slow_to_load, ONE, PATIENCE_S)

    trio.run(main)


def test_a_job_that_gives_up_during_loading_leaves_the_worker_to_the_next():
    async def main():
        async with bounded_pool() as pool:
            with pytest.raises(ComputeTimedOut, match="still waiting"):
                await pool.compute(digits, PIXELS, 0.001)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert pool.stats.started == 1

    trio.run(main)


@pytest.mark.parametrize(
    "data",
    [
        doubled(36),
        huge_constant(2**17),
        unary("Relu") * 2,
        DIGITS[:-100],
        DIGITS[:5_000] + DIGITS[5_050:],
        bytes(10_000),
    ],
    ids=["doubling", "huge", "twice", "cut", "hole", "zeros"],
)
def test_a_hostile_model_hurts_only_itself(data):
    async def load_either(digest):
        return data if digest == compute_digest(data) else BLOBS[digest]

    def rss_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def main():
        async with open_pool(load_either, load_timeout_s=3) as pool:
            before = rss_bytes()
            with trio.fail_after(PATIENCE_S), pytest.raises((ModelRefused, ComputeFailed, BadInput, ComputeTimedOut)):
                await pool.compute(compute_digest(data), ONE, 3)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert rss_bytes() - before < 50 * 1024 * 1024

    trio.run(main)


def test_a_refused_model_is_remembered_and_its_process_takes_the_next():
    async def main():
        async with bounded_pool() as pool:
            for _ in range(2):
                with pytest.raises(ModelRefused, match="control flow"):
                    await pool.compute(loop, PAIR, PATIENCE_S)
            (pid,) = pool.pids
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert pool.pids == (pid,)
            assert pool.stats.started == 1

    trio.run(main)


def test_a_process_in_which_onnxruntime_refused_a_model_takes_no_other():
    async def main():
        async with bounded_pool(module=UNGUARDED) as pool:
            with pytest.raises(ModelRefused, match="does not load it"):
                await pool.compute(loop, PAIR, PATIENCE_S)
            await wait_until(lambda: not pool.pids)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert pool.stats.started == 2

    trio.run(main)


def test_a_run_whose_worker_is_killed_is_begun_once_more():
    async def main():
        async with bounded_pool() as pool:
            await pool.prepare(digits, PATIENCE_S)
            (pid,) = pool.pids
            os.kill(pid, signal.SIGSTOP)
            outputs = []

            async def ask():
                outputs.extend(await pool.compute(digits, PIXELS, PATIENCE_S))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(pid, signal.SIGKILL)
            assert outputs
            assert (pool.stats.started, pool.stats.crashed, pool.stats.completed) == (2, 1, 1)

    trio.run(main)


def test_a_run_that_ends_two_workers_is_begun_no_third_time():
    async def main():
        async with bounded_pool() as pool:
            with pytest.raises(WorkerCrashed, match="ended with status -8"):
                await pool.compute(crashes, MINUS_ONE, PATIENCE_S)
            assert (pool.stats.started, pool.stats.crashed) == (2, 2)

    trio.run(main)


def test_a_process_without_a_model_that_is_killed_is_not_missed():
    async def main():
        async with bounded_pool() as pool:
            with pytest.raises(ModelRefused):
                await pool.compute(loop, PAIR, PATIENCE_S)
            (pid,) = pool.pids
            os.kill(pid, signal.SIGKILL)
            await wait_until(lambda: not pool.pids)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]

    trio.run(main)


def test_a_file_larger_than_is_looked_at_is_refused_without_a_process():
    large = bytes(MODEL_BYTES_MAX + 1)

    async def load_large(digest):
        return large

    async def main():
        async with open_pool(load_large) as pool:
            for _ in range(2):
                with pytest.raises(ModelRefused, match="2097153 bytes; 1 to 2097152 are run here"):
                    await pool.compute(compute_digest(large), ONE, PATIENCE_S)
            assert pool.stats.started == 0

    trio.run(main)


def test_bad_inputs_and_outputs_leave_the_worker_as_it_was():
    async def main():
        async with bounded_pool() as pool:
            with pytest.raises(BadInput, match=r"expected float32 \(rows, 2\), got uint8 \(1, 64\)"):
                await pool.compute(log, PIXELS, PATIENCE_S)
            with pytest.raises(ComputeFailed, match="NaN or infinity"):
                await pool.compute(log, PAIR, PATIENCE_S)
            assert pool.stats.started == 1
            assert len(pool.pids) == 1

    trio.run(main)


def test_a_missing_model_is_told_to_everyone_who_waits_for_it():
    async def main():
        async with bounded_pool() as pool:
            with pytest.raises(MissingBlob):
                await pool.compute(bytes(32), PIXELS, PATIENCE_S)
            assert pool.pids == ()

    trio.run(main)


def test_bytes_that_are_not_the_model_asked_for_are_no_model():
    async def load_wrong(digest):
        return DIGITS

    async def main():
        async with open_pool(load_wrong) as pool:
            with pytest.raises(MissingBlob):
                await pool.compute(neg, PAIR, PATIENCE_S)

    trio.run(main)


def test_a_run_that_takes_long_does_not_keep_other_models_waiting(monkeypatch):
    monkeypatch.setattr(queue, "OVERDUE_S", 0.3)

    async def main():
        async with bounded_pool(workers=1) as pool, trio.open_nursery() as nursery:
            pid = await wait_until_running(pool, slow, ONE, nursery, [])
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert is_alive(pid)
            # The same model's next job still waits for its turn: there is one worker.
            with pytest.raises(ComputeTimedOut, match="still waiting"):
                await pool.compute(slow, ONE, 0.8)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_least_recently_used_model_makes_room():
    async def main():
        async with bounded_pool(models_max=2) as pool:
            for model, inputs in ((digits, PIXELS), (neg, PAIR), (digits, PIXELS)):
                await pool.compute(model, inputs, PATIENCE_S)
            kept = pool.pids[0]
            await pool.prepare(log, PATIENCE_S)
            assert kept in pool.pids
            assert len(pool.pids) == 2
            await pool.compute(digits, PIXELS, PATIENCE_S)
            assert pool.stats.started == 3

    trio.run(main)


NUMBERS = tuple(range(1, AHEAD_MAX + 3))


@asynccontextmanager
async def queued(pool, results):
    """A worker stopped at its first job, with the next ones ahead and the last that waits. They end in `results`."""
    await pool.compute(log, (make_float(1),), PATIENCE_S)
    (pid,), (slot,) = pool.pids, pool._crew.slots
    slot.took_s = 0.0  # a quick one, however busy this machine is: as many go ahead as may
    os.kill(pid, signal.SIGSTOP)

    async def run(number):
        try:
            outputs, _ = await pool.compute(log, (make_float(number),), PATIENCE_S, f"job {number}")
            results[number] = outputs[0]
        except (Withdrawn, trio.TooSlowError) as error:
            results[number] = type(error)

    async with trio.open_nursery() as nursery:
        scopes = {}
        for number in NUMBERS:
            scope = scopes[number] = trio.CancelScope()

            async def run_within(number=number, scope=scope):
                with scope:
                    await run(number)

            nursery.start_soon(run_within)
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert [job.name for job in slot.ahead] == [f"job {number}" for number in NUMBERS[1:-1]]
        assert pool.waiting == len(NUMBERS) - 1
        yield pid, scopes
        if is_alive(pid):
            os.kill(pid, signal.SIGCONT)


def compute_all(*without):
    return {number: compute_log(number) for number in NUMBERS if number not in without}


def make_float(number):
    return Tensor("float32", (1, 2), np.float32([number, 1]).tobytes())


def compute_log(number):
    (outputs,), _ = InlineEngine(BLOBS.__getitem__).compute(log, (make_float(number),))
    return outputs


def test_a_worker_has_its_next_job_before_it_has_done_the_one_at_hand():
    async def main():
        results = {}
        async with bounded_pool() as pool, queued(pool, results):
            pass
        assert results == compute_all()
        assert pool.stats.completed == 1 + len(NUMBERS)

    trio.run(main)


def test_what_a_worker_has_ahead_can_be_taken_back_and_its_answer_is_nobodys():
    async def main():
        results = {}
        async with bounded_pool() as pool, queued(pool, results):
            assert pool.withdraw("job 2")
            await wait_until(lambda: 2 in results)
        assert results == {**compute_all(), 2: Withdrawn}
        assert pool.stats.started == 1

    trio.run(main)


def test_whoever_waits_for_what_a_worker_has_ahead_may_leave_and_no_other_answer_is_touched():
    async def main():
        results = {}
        async with bounded_pool() as pool, queued(pool, results) as (_, scopes):
            scopes[2].cancel()
            await wait_until(lambda: pool.waiting == len(NUMBERS) - 2)
        assert results == compute_all(2)
        assert pool.stats.started == 1

    trio.run(main)


def test_several_may_leave_while_their_jobs_are_ahead_and_the_others_get_their_own_answers():
    async def main():
        results = {}
        async with bounded_pool() as pool, queued(pool, results) as (_, scopes):
            for number in (2, 3, 5):
                scopes[number].cancel()
            await wait_until(lambda: pool.waiting == len(NUMBERS) - 4)
        assert results == compute_all(2, 3, 5)
        assert pool.stats.started == 1

    trio.run(main)


def test_a_submitted_run_tells_its_answer_or_what_went_wrong_once():
    async def main():
        answers = []
        async with bounded_pool() as pool:
            jobs = ((digits, PIXELS), (digits, ONE), (log, PAIR), (bytes(32), PIXELS))
            for count, (model, inputs) in enumerate(jobs, 1):
                pool.submit(model, inputs, PATIENCE_S, "", answers.append)
                await wait_until(lambda count=count: len(answers) == count)
            pool.submit(slow, ONE, PATIENCE_S, "", answers.append)
            await wait_until(lambda: pool.waiting == 0)
            assert len(answers) == 4
        expected, _ = InlineEngine(BLOBS.__getitem__).compute(digits, PIXELS)
        assert answers[0].outputs == expected
        assert [type(answer) for answer in answers[1:]] == [BadInput, ComputeFailed, MissingBlob, WorkerCrashed]
        assert str(answers[-1]) == "the pool is closed"

    trio.run(main)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_job_that_comes_after_its_deadline_costs_no_worker(timeout_s):
    async def main():
        async with bounded_pool() as pool:
            await pool.prepare(digits, PATIENCE_S)
            pids = pool.pids
            with pytest.raises(ComputeTimedOut, match="still waiting"):
                await pool.compute(digits, PIXELS, timeout_s)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert pool.pids == pids
            assert (pool.stats.timed_out, pool.stats.completed) == (1, 1)

    trio.run(main)


def test_jobs_ahead_whose_deadline_passes_end_on_time_and_no_other_answer_is_touched():
    async def main():
        results, late = {}, []
        async with bounded_pool() as pool:
            await pool.compute(log, (make_float(1),), PATIENCE_S)
            (pid,), (slot,) = pool.pids, pool._crew.slots
            slot.took_s = 0.0
            os.kill(pid, signal.SIGSTOP)
            for number in (1, 2, 3, 4):
                timeout_s, tell = (0.05, late.append) if number in (2, 3) else (PATIENCE_S, None)
                tell = tell or (lambda answer, number=number: results.setdefault(number, answer.outputs[0]))
                pool.submit(log, (make_float(number),), timeout_s, "", tell)
            assert len(slot.ahead) == 3
            await wait_until(lambda: len(late) == 2)
            os.kill(pid, signal.SIGCONT)
            await wait_until(lambda: len(results) == 2)
            assert pool.pids == (pid,)
        assert results == {number: compute_log(number) for number in (1, 4)}
        assert [str(error) for error in late] == ["still waiting after 0.050 s"] * 2

    trio.run(main)


@pytest.mark.parametrize(("took_s", "ahead"), [(0.0, AHEAD_MAX), (0.3 * AHEAD_S, 3), (0.6 * AHEAD_S, 1), (60.0, 1)])
def test_the_longer_a_run_takes_the_fewer_jobs_are_ahead(took_s, ahead):
    async def main():
        async with bounded_pool() as pool, trio.open_nursery() as nursery:
            await pool.compute(log, (make_float(1),), PATIENCE_S)
            (pid,), (slot,) = pool.pids, pool._crew.slots
            slot.took_s = took_s
            os.kill(pid, signal.SIGSTOP)
            for number in NUMBERS:
                nursery.start_soon(pool.compute, log, (make_float(number),), PATIENCE_S)
            await wait_until(lambda: pool.waiting == len(NUMBERS) - 1)
            assert len(slot.ahead) == ahead
            os.kill(pid, signal.SIGCONT)

    trio.run(main)


def test_of_two_workers_none_has_a_second_job_ahead_before_both_have_one():
    async def main():
        async with bounded_pool(workers=2) as pool, trio.open_nursery() as nursery:
            async with trio.open_nursery() as both:
                for number in NUMBERS:
                    both.start_soon(pool.compute, log, (make_float(number),), PATIENCE_S)
            await wait_until(lambda: all(slot.state == "idle" for slot in pool._crew.slots))
            assert len(pool.pids) == 2
            for pid, slot in zip(pool.pids, pool._crew.slots, strict=True):
                slot.took_s = 0.0
                os.kill(pid, signal.SIGSTOP)
            for number in (1, 2, 3, 4, 5):
                nursery.start_soon(pool.compute, log, (make_float(number),), PATIENCE_S)
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert sorted(len(slot.ahead) for slot in pool._crew.slots) == [1, 2]
            for pid in pool.pids:
                os.kill(pid, signal.SIGCONT)

    trio.run(main)


def test_what_a_killed_worker_had_ahead_is_run_by_the_next_one():
    async def main():
        results = {}
        async with bounded_pool() as pool, queued(pool, results) as (pid, scopes):
            scopes[1].cancel()  # in mid-run: its worker goes with it
            await wait_until(lambda: not is_alive(pid))
        assert results == compute_all(1)
        assert pool.stats.started == 2

    trio.run(main)


def test_two_workers_run_two_jobs_of_one_model_side_by_side():
    async def main():
        async with bounded_pool(workers=2) as pool, trio.open_nursery() as nursery:
            first = await wait_until_running(pool, slow, ONE, nursery, [])
            nursery.start_soon(pool.compute, slow, ONE, PATIENCE_S)
            await wait_until(lambda: len(pool.pids) == 2 and pool.waiting == 0)
            assert first in pool.pids
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_many_jobs_at_once_all_end_and_none_is_mixed_up():
    async def main():
        async with bounded_pool(workers=2) as pool:
            results = {}

            async def run(value):
                pixels = (Tensor("uint8", (1, 64), bytes((value,)) * 64),)
                results[value] = await pool.compute(digits, pixels, PATIENCE_S)

            async with trio.open_nursery() as nursery:
                for value in range(50):
                    nursery.start_soon(run, value)
            engine = InlineEngine(BLOBS.__getitem__)
            assert results == {
                value: engine.compute(digits, (Tensor("uint8", (1, 64), bytes((value,)) * 64),)) for value in range(50)
            }

    trio.run(main)


def test_leaving_the_pool_ends_every_process_and_refuses_who_still_waits():
    async def main():
        results = []
        async with trio.open_nursery() as nursery:
            async with bounded_pool() as pool:
                await wait_until_running(pool, slow, ONE, nursery, results)
                await pool.prepare(digits, PATIENCE_S)
                pids = pool.pids
                assert len(pids) == 2
            assert not any(is_alive(pid) for pid in pids)
        assert isinstance(results[0], WorkerCrashed)
        with pytest.raises(WorkerCrashed, match="closed"):
            await pool.compute(digits, PIXELS, 1)

    trio.run(main)


def test_a_system_that_gives_no_process_fails_the_job_and_is_tried_again(monkeypatch):
    async def main():
        async with bounded_pool() as pool:
            with monkeypatch.context() as patch:
                patch.setattr(sys, "executable", "/nowhere/python")
                with pytest.raises(WorkerCrashed, match="could be started"):
                    await pool.compute(digits, PIXELS, PATIENCE_S)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]

    trio.run(main)


def test_a_model_that_ends_its_workers_in_a_row_is_refused_with_the_reason_and_not_started_for_ever(monkeypatch):
    monkeypatch.setattr(verdicts, "BACKOFF_S_MAX", 0.0)

    async def main():
        async with bounded_pool() as pool:
            for _ in range(verdicts.KILLS_MAX - 1):  # each is begun twice, and counts once
                with pytest.raises(WorkerCrashed, match="ended with status -8"):
                    await pool.compute(crashes, MINUS_ONE, PATIENCE_S)
            with pytest.raises(ModelRefused, match=r"5 times in a row, the last time so: .* status -8; .* after 600 s"):
                await pool.compute(crashes, MINUS_ONE, PATIENCE_S)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            assert (pool.stats.started, pool.stats.blamed) == (2 * verdicts.KILLS_MAX, 1)
            assert [verdict.is_admitted for verdict in pool.get_admissions().values()] == [False, True]

    trio.run(main)


def test_verdicts_can_be_read_by_digest():
    async def main():
        async with bounded_pool() as pool:
            assert pool.get_admissions() == {}
            await pool.prepare(digits, PATIENCE_S)
            with pytest.raises(ModelRefused):
                await pool.prepare(loop, PATIENCE_S)
            assert {model: verdict.format() for model, verdict in pool.get_admissions().items()} == {
                digits: "admitted: takes uint8 (rows, 64); gives int32 (rows, 10)",
                loop: "refused: operator Loop is not run here: it is control flow, whose end nobody can tell",
            }

    trio.run(main)


def test_a_run_ends_after_the_pools_own_limit_whatever_deadline_it_was_given():
    async def main():
        async with bounded_pool(run_timeout_s=0.2) as pool:
            await pool.prepare(slow, PATIENCE_S)
            with pytest.raises(ComputeTimedOut, match=r"still running after 0\.200 s"):
                await pool.compute(slow, ONE, PATIENCE_S)
            await wait_until(lambda: not pool.pids)

    trio.run(main)


def test_one_of_several_models_cannot_take_the_whole_queue(monkeypatch):
    monkeypatch.setattr(queue, "OVERDUE_S", 0.2)

    async def main():
        async with bounded_pool(waiting_max=4) as pool, trio.open_nursery() as nursery:
            await wait_until_running(pool, slow, ONE, nursery, [])
            await pool.prepare(digits, PATIENCE_S)
            for _ in range(3):
                nursery.start_soon(pool.compute, slow, ONE, PATIENCE_S)
            await wait_until(lambda: pool.waiting == 3)
            with pytest.raises(Busy) as caught:
                await pool.compute(slow, ONE, PATIENCE_S)
            assert (caught.value.waiting, caught.value.waiting_max) == (3, 3)
            assert (await pool.compute(digits, PIXELS, PATIENCE_S))[0]
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_models_that_are_long_in_loading_leave_places_to_others():
    others = [many_products(400, 3_000 + place, is_constant=True) for place in range(5)]
    blobs = BLOBS | {compute_digest(data): data for data in others}

    async def load_any(digest):
        return blobs[digest]

    async def main():
        async with open_pool(load_any, module=UNGUARDED) as pool, trio.open_nursery() as nursery:
            for data in others:
                nursery.start_soon(pool.prepare, compute_digest(data), PATIENCE_S)
            await wait_until(lambda: len(pool.pids) == 2)
            with trio.fail_after(PATIENCE_S):
                assert len(pool.pids) == 2
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_workers_die_with_their_node_even_in_the_middle_of_a_run():
    code = """
import sys, trio
from tests.roles.engine.test_pool import ONE, load_blob, open_pool, slow, wait_until_running
async def main():
    async with open_pool(load_blob) as pool, trio.open_nursery() as nursery:
        print(await wait_until_running(pool, slow, ONE, nursery, []), flush=True)
        await trio.sleep_forever()
trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            worker = int(parent.stdout.readline())
            assert is_alive(worker)
        finally:
            parent.kill()

    async def main():
        await wait_until(lambda: not is_alive(worker))

    trio.run(main)
