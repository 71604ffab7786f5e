"""Run models in worker processes, one model each, without ever blocking the event loop.

A worker is started when its model is first asked for and stays. It is killed when a job that it runs is past its
deadline or cancelled, when it breaks the pipe's rules, and when another model needs its place; the next job starts a
new one. A run of one question and one answer whose worker dies is begun once more, by another: what killed it need not
have been the model. A model that ends its workers again and again is refused for a while; one that may not be loaded,
for good.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from protocol.generation import is_generation, read_form
from protocol.proofs.steps import AnyAnswer, AnyQuestion, ForcedSteps, ForceSteps, RunPart, TraceStep
from protocol.proofs.trace import Exhibit, OperatorRun, RunOperator, TracedRun, TraceModel
from protocol.tensor import Tensor
from roles.engine.crew import Crew, LoadBlob, within
from roles.engine.errors import ComputeFailed, ComputeTimedOut, EngineError, Withdrawn, WorkerCrashed
from roles.engine.frames import Begin, Failed, GoOn, Message, Ran, Run, pack_frame
from roles.engine.process import WORKER
from roles.engine.queue import Queue
from roles.engine.sandbox import Measure
from roles.engine.slots import Answer, Job, PoolStats, Promise, Slot, Writing
from roles.engine.specs import IoSpec, verify_generation, verify_inputs
from roles.engine.stepped import STEPS_MAX, Stepped, join, say_nothing
from roles.engine.verdicts import Admission

WAITING_MAX = 64  # jobs without a worker yet
MODELS_MAX = 4  # processes alive, about 65 MiB each
LOAD_TIMEOUT_S = 10.0  # admission and load; what an admitted file makes onnxruntime do then is bounded (`growth`)
RUN_TIMEOUT_S = 30.0  # whatever deadline the job has
STEP_GRACE_S = 1.0  # for the steps of a generation under way at its deadline

Inputs = tuple[Tensor, ...]
A = TypeVar("A", Ran, TracedRun, OperatorRun, Stepped, ForcedSteps)  # what a worker answers


@asynccontextmanager
async def open_pool(
    load_blob: LoadBlob,
    workers: int = 1,
    models_max: int = MODELS_MAX,
    waiting_max: int = WAITING_MAX,
    load_timeout_s: float = LOAD_TIMEOUT_S,
    run_timeout_s: float = RUN_TIMEOUT_S,
    optimise: str = "all",
    probes: bool = False,
    module: str = WORKER,
) -> AsyncIterator["Pool"]:
    """A pool that runs at most `workers` jobs at a time and keeps at most `models_max` models loaded.

    `load_blob` gives a model's bytes by digest and may raise MissingBlob. Starts nothing until the first job, but for a
    process that finds out what binds workers on this kernel if it `probes`; on leaving, every process is killed and
    reaped.
    """
    async with trio.open_nursery() as nursery:
        crew = partial(Crew, nursery, load_blob, max(models_max, workers), load_timeout_s, optimise, module)
        queue = Queue(nursery, crew, workers, waiting_max, run_timeout_s)
        nursery.start_soon(queue.watch)
        if probes:
            nursery.start_soon(queue.crew.probe)
        try:
            yield Pool(queue, run_timeout_s)
        finally:
            queue.close()
            nursery.cancel_scope.cancel()


class Pool:
    """Made by `open_pool`."""

    def __init__(self, queue: Queue, run_timeout_s: float) -> None:
        self._queue = queue
        self._crew = queue.crew
        self._run_timeout_s = run_timeout_s
        self._writing: dict[str, Writing] = {}  # generations that run, by name

    @property
    def stats(self) -> PoolStats:
        return self._crew.stats

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What binds the newest worker process, by its own account."""
        return self._crew.measures

    async def compute(
        self,
        model: bytes,
        inputs: tuple[Tensor, ...],
        timeout_s: float,
        name: str = "",
        say: Callable[[Stepped], None] = say_nothing,
    ) -> tuple[tuple[Tensor, ...], str]:
        """Outputs and profile of one run of the model with this digest, or of a generation with it, of which `say`
        hears every few steps. `name` is for `withdraw`.

        Raises Busy, ModelRefused, BadInput, ComputeFailed, ComputeTimedOut (after `timeout_s`, which covers waiting,
        loading and running, or after the pool's own limits), Withdrawn, WorkerCrashed, or what `load_blob` raises.
        Cancelling it kills the worker that runs it.
        """
        if is_generation(inputs):
            return await self._generate(model, inputs, timeout_s, name, say)
        promise = Promise()
        job = self.submit(model, inputs, timeout_s, name, promise.keep)
        try:
            ran = await promise.wait()
        except trio.Cancelled:
            self._queue.leave(job)
            raise
        assert isinstance(ran, Ran)
        return ran.outputs, ran.profile

    def submit(
        self, model: bytes, inputs: Inputs, timeout_s: float, name: str, on_end: Callable[[Answer], None]
    ) -> Job:
        """`compute` of what is no generation, without a task of its own: `on_end` hears of the answer, once.

        Or of what `compute` would raise. That may be before this returns.
        """
        deadline_s = trio.current_time() + timeout_s
        job = Job(model, True, on_end, None, name, inputs, pack_frame(Run(inputs)), timeout_s, deadline_s)
        try:
            self._queue.enter(job)
        except EngineError as error:
            on_end(error)
        return job

    async def trace(self, model: bytes, inputs: Inputs, timeout_s: float, operator: int = 0) -> TracedRun:
        """What every operator of the model gives, and what `operator` takes unless that is 0. Raises like `compute`.

        Without optimisation, whatever the pool's own: only then do operators run one by one.
        """
        return await self._ask(model, inputs, TraceModel(inputs, operator), TracedRun, timeout_s)

    async def run_operator(self, model: bytes, operator: int, exhibit: Exhibit, timeout_s: float) -> OperatorRun:
        """What one operator gives for what it is said to take. Raises like `compute`, but never BadInput."""
        return await self._ask(model, None, RunOperator(operator, exhibit), OperatorRun, timeout_s)

    async def inspect(self, model: bytes, question: AnyQuestion, timeout_s: float) -> AnyAnswer:
        """`trace` or `run_operator`, whichever is asked, or the same of a step of a generation (`engine.steps`)."""
        match question:
            case TraceModel(inputs, operator):
                return await self.trace(model, inputs, timeout_s, operator)
            case RunOperator(operator, exhibit):
                return await self.run_operator(model, operator, exhibit, timeout_s)
            case ForceSteps():
                return await self._ask(model, None, question, ForcedSteps, timeout_s)
            case TraceStep():
                return await self._ask(model, None, question, TracedRun, timeout_s)
            case RunPart():
                return await self._ask(model, None, question, OperatorRun, timeout_s)

    async def prepare(self, model: bytes, timeout_s: float) -> tuple[tuple[IoSpec, ...], tuple[IoSpec, ...]]:
        """Have a worker load the model, and tell what it takes and gives. Raises like `compute`."""
        with trio.move_on_after(timeout_s):
            slot = await self._acquire(model, runs=False)
            return slot.inputs, slot.outputs
        self.stats.timed_out += 1
        raise ComputeTimedOut(timeout_s, "loading")

    def get_admissions(self) -> dict[bytes, Admission]:
        """The verdicts on models that have been asked for, by digest; bounded."""
        return self._crew.verdicts.get_all(trio.current_time())

    def withdraw(self, name: str) -> bool:
        """Whether a job of this name was still waiting, or is a generation: then it ends with Withdrawn.

        A generation ends between two steps. Any other job that runs is left alone.
        """
        if name in self._writing:
            self._writing[name].is_unwanted = True
            return True
        return self._queue.withdraw(name)

    @property
    def waiting(self) -> int:
        """Jobs without a worker yet."""
        return len(self._queue.waiting)

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes alive."""
        return tuple(slot.process.pid for slot in self._crew.slots if slot.process)

    async def _acquire(self, model: bytes, runs: bool, name: str = "", inputs: Inputs | None = None) -> Slot:
        """A slot that holds the model; if it `runs`, the slot is ours from now on. Raises BadInput."""
        promise = Promise()
        job = Job(model, runs, promise.keep, promise.keep, name, inputs)
        self._queue.enter(job)
        try:
            slot = await promise.wait()
        except trio.Cancelled:
            self._queue.leave(job)
            if isinstance(promise.ended, Slot) and runs:
                self._queue.release(promise.ended)
            raise
        assert isinstance(slot, Slot)
        return slot

    async def _ask(
        self, model: bytes, inputs: Inputs | None, question: Message, answer: type[A], timeout_s: float
    ) -> A:
        """Put one frame to a worker that holds the model. `inputs`, if any, must be what it takes."""
        phase = "waiting"
        with trio.move_on_after(timeout_s):
            slot = await self._acquire(model, True, inputs=inputs)
            phase = "running"
            return await self._run(slot, question, answer)
        self.stats.timed_out += 1
        raise ComputeTimedOut(timeout_s, phase)

    async def _run(self, slot: Slot, question: Message, answer: type[A]) -> A:
        reply = await self._talk(slot, question, answer)
        self._queue.release(slot)
        self._crew.verdicts.forgive(slot.model)
        if isinstance(reply, Failed):
            raise ComputeFailed(reply.reason)
        self.stats.completed += 1
        return reply

    async def _talk(self, slot: Slot, question: Message, answer: type[A]) -> A | Failed:
        """The worker's answer to this question; whatever comes instead of one ends the worker."""
        assert slot.process
        # What an operator is given in a dispute comes from whoever disputes: the model is not to blame for it.
        is_blamed = not isinstance(question, RunOperator | RunPart)
        try:
            reply = await within(self._run_timeout_s, "running", slot.process.exchange(question))
            if isinstance(reply, answer | Failed):
                return reply
            raise WorkerCrashed(f"the worker process answered a {type(question).__name__} with {type(reply).__name__}")
        except (ComputeTimedOut, WorkerCrashed) as error:
            self._queue.end(slot, error, is_blamed)
            raise
        except trio.Cancelled:
            # In mid-run, by deadline or by the caller: only the end of its process surely stops onnxruntime.
            self._crew.discard(slot)
            raise

    async def _generate(
        self, model: bytes, inputs: tuple[Tensor, ...], timeout_s: float, name: str, say: Callable[[Stepped], None]
    ) -> tuple[tuple[Tensor, ...], str]:
        began_s, phase = trio.current_time(), "waiting"
        # Between two steps the deadline costs no process; only a step that does not end is cut off.
        with trio.move_on_after(timeout_s + STEP_GRACE_S):
            slot = await self._acquire(model, True, name)
            phase = "running"
            form = read_form(slot.inputs, slot.outputs)
            if form is None:
                try:
                    verify_inputs(slot.inputs, inputs)
                except EngineError:
                    self._queue.release(slot)
                    raise
                ran = await self._run(slot, Run(inputs), Ran)
                return ran.outputs, ran.profile
            writing = self._writing[name] = Writing(began_s, began_s + timeout_s)
            try:
                verify_generation(inputs, form)
                return join(await self._write(slot, inputs, writing, say))
            finally:
                if self._writing[name] is writing:
                    del self._writing[name]
                self._queue.release(slot)
        self.stats.timed_out += 1
        raise ComputeTimedOut(timeout_s, phase)

    async def _write(
        self, slot: Slot, inputs: tuple[Tensor, ...], writing: Writing, say: Callable[[Stepped], None]
    ) -> list[Stepped]:
        """The parts of a generation, to its end. Raises Withdrawn or ComputeTimedOut between two of them."""
        parts: list[Stepped] = []
        question: Begin | GoOn = Begin(inputs)
        while len(parts) < STEPS_MAX:
            reply = await self._talk(slot, question, Stepped)
            self._crew.verdicts.forgive(slot.model)
            if isinstance(reply, Failed):
                raise ComputeFailed(reply.reason)
            parts.append(reply)
            say(reply)
            if reply.is_over:
                self.stats.completed += 1
                return parts
            if writing.is_unwanted:
                raise Withdrawn("called off in the middle of a generation")
            if trio.current_time() >= writing.ends_s:
                self.stats.timed_out += 1
                raise ComputeTimedOut(writing.ends_s - writing.began_s, "running")
            question = GoOn()
        error = WorkerCrashed(f"the worker process has not ended after {STEPS_MAX} answers")
        self._queue.end(slot, error)
        raise error
