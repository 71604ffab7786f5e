"""Run models in worker processes, one model each, without ever blocking the event loop.

A worker is started when its model is first asked for and stays. It is killed when a job that it runs is past its
deadline or cancelled, when it breaks the pipe's rules, and when another model needs its place; the next job starts a
new one. A run of one question and one answer whose worker dies is begun once more, by another: what killed it need not
have been the model. A model that ends its workers again and again is refused for a while; one that may not be loaded,
for good.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import trio

from protocol.generation import is_generation, read_form
from protocol.proofs.steps import AnyAnswer, AnyQuestion, ForcedSteps, ForceSteps, RunPart, TraceStep
from protocol.proofs.trace import Exhibit, OperatorRun, RunOperator, TracedRun, TraceModel
from protocol.tensor import Tensor
from roles.engine.crew import Crew, LoadBlob, within
from roles.engine.errors import (
    Busy,
    ComputeFailed,
    ComputeTimedOut,
    EngineError,
    ModelRefused,
    Withdrawn,
    WorkerCrashed,
)
from roles.engine.frames import Begin, Failed, GoOn, Message, Ran, Run, pack_frame
from roles.engine.process import FRAME_NOW_BYTES_MAX, WORKER
from roles.engine.sandbox import Measure
from roles.engine.slots import Job, PoolStats, Slot, Writing
from roles.engine.specs import IoSpec, verify_generation, verify_inputs
from roles.engine.stepped import STEPS_MAX, Stepped, join, say_nothing
from roles.engine.verdicts import Admission

WAITING_MAX = 64  # jobs without a worker yet
AHEAD_MAX = 12  # jobs in a worker's pipe behind the one it runs: while we are busy it goes on
AHEAD_S = 0.04  # that they may take together; one always may
MODELS_MAX = 4  # processes alive, about 65 MiB each
LOAD_TIMEOUT_S = 10.0  # admission and load; what an admitted file makes onnxruntime do then is bounded (`growth`)
OVERDUE_S = 2.0  # a run that takes longer no longer keeps jobs on other models waiting
RUN_TIMEOUT_S = 30.0  # whatever deadline the job has
STEP_GRACE_S = 1.0  # for the steps of a generation under way at its deadline

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
        pool = Pool(nursery, crew, workers, waiting_max, run_timeout_s)
        if probes:
            nursery.start_soon(pool._crew.probe)
        try:
            yield pool
        finally:
            pool._close()


class Pool:
    """Made by `open_pool`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        crew: Callable[[Callable[[], None], Callable[[bytes, Exception], None]], Crew],
        workers: int,
        waiting_max: int,
        run_timeout_s: float,
    ) -> None:
        self._nursery = nursery
        self._crew = crew(self._dispatch, self._give_up)
        self._running_max = workers
        self._waiting_max = waiting_max
        self._run_timeout_s = run_timeout_s
        self._waiting: list[Job] = []
        self._writing: dict[str, Writing] = {}  # generations that run, by name
        self._clock = 0
        self._is_looking = False
        self._is_closed = False

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
        reply = await self._ask(model, inputs, Run(inputs), Ran, timeout_s, name)
        return reply.outputs, reply.profile

    async def trace(self, model: bytes, inputs: tuple[Tensor, ...], timeout_s: float, operator: int = 0) -> TracedRun:
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
            slot = await self._acquire(Job(model, runs=False))
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
        job = next((job for job in self._waiting if job.runs and job.name == name), None)
        if job is None:
            return False
        self._fail(job, Withdrawn("taken back before it began"))
        return True

    @property
    def waiting(self) -> int:
        """Jobs without a worker yet."""
        return len(self._waiting)

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes alive."""
        return tuple(slot.process.pid for slot in self._crew.slots if slot.process)

    async def _acquire(self, job: Job) -> Slot:
        """A slot that holds the job's model; if it runs, the slot is ours from now on. Raises BadInput."""
        model = job.model
        if self._is_closed:
            raise WorkerCrashed("the pool is closed")
        verdict = self._crew.verdicts.get(model, trio.current_time())
        if verdict is not None and not verdict.is_admitted:
            raise ModelRefused(verdict.reason)
        # Where more models than one are in use, none may keep the others out: a quarter of the queue is not for it.
        models = {slot.model for slot in self._crew.slots if slot.model} | {job.model for job in self._waiting}
        own_max = self._waiting_max if models <= {model} else -(-3 * self._waiting_max // 4)
        own = sum(job.model == model for job in self._waiting)
        for waiting, most in ((len(self._waiting), self._waiting_max), (own, own_max)):
            if waiting >= most:
                self.stats.refused_busy += 1
                raise Busy(waiting, most)
        self._waiting.append(job)
        self._dispatch()
        if not (job.decided.is_set() or self._is_looking):
            self._is_looking = True
            self._nursery.start_soon(self._look_again)
        try:
            await job.decided.wait()
        except trio.Cancelled:
            if job in self._waiting:
                self._waiting.remove(job)
            if job.answer is not None:
                raise
            if job.slot and job.is_sent:
                self._nursery.start_soon(self._drop_answer, job.slot)
            elif job.slot and job.runs:
                self._release(job.slot)
            raise
        if job.error:
            raise job.error
        assert job.slot
        return job.slot

    async def _look_again(self) -> None:
        """While jobs wait, find out which runs have become overdue."""
        while self._waiting:
            await trio.sleep(OVERDUE_S)
            self._dispatch()
        self._is_looking = False

    async def _ask(
        self,
        model: bytes,
        inputs: tuple[Tensor, ...] | None,
        question: Message,
        answer: type[A],
        timeout_s: float,
        name: str = "",
    ) -> A:
        """Put one frame to a worker that holds the model. `inputs`, if any, must be what it takes."""
        phase = "waiting"
        with trio.move_on_after(timeout_s):
            frame = pack_frame(question) if isinstance(question, Run) else b""
            for is_last in (not frame, True):
                job = Job(model, True, name, inputs, frame if len(frame) <= FRAME_NOW_BYTES_MAX else b"")
                slot = await self._acquire(job)
                phase = "running"
                try:
                    return await self._run(slot, question, answer, job)
                except WorkerCrashed:
                    if is_last:
                        raise
                phase = "waiting"
                self._crew.verdicts.excuse(model)
        self.stats.timed_out += 1
        raise ComputeTimedOut(timeout_s, phase)

    async def _run(self, slot: Slot, question: Message, answer: type[A], job: Job | None = None) -> A:
        if job is not None and job.answer is not None:
            reply = self._check(slot, question, answer, job.answer)
        else:
            reply = await self._talk(slot, question, answer, job is not None and job.is_sent)
            self._release(slot)
        self._crew.verdicts.forgive(slot.model)
        if isinstance(reply, Failed):
            raise ComputeFailed(reply.reason)
        self.stats.completed += 1
        return reply

    async def _talk(self, slot: Slot, question: Message, answer: type[A], is_sent: bool = False) -> A | Failed:
        """The worker's answer, if it is one to this question."""
        return self._check(slot, question, answer, await self._exchange(slot, question, is_sent))

    def _check(self, slot: Slot, question: Message, answer: type[A], reply: Message) -> A | Failed:
        if isinstance(reply, answer | Failed):
            return reply
        error = WorkerCrashed(f"the worker process answered a {type(question).__name__} with {type(reply).__name__}")
        self._end(slot, error, question)
        raise error

    async def _generate(
        self, model: bytes, inputs: tuple[Tensor, ...], timeout_s: float, name: str, say: Callable[[Stepped], None]
    ) -> tuple[tuple[Tensor, ...], str]:
        began_s, phase = trio.current_time(), "waiting"
        # Between two steps the deadline costs no process; only a step that does not end is cut off.
        with trio.move_on_after(timeout_s + STEP_GRACE_S):
            slot = await self._acquire(Job(model, True, name))
            phase = "running"
            form = read_form(slot.inputs, slot.outputs)
            if form is None:
                try:
                    verify_inputs(slot.inputs, inputs)
                except EngineError:
                    self._release(slot)
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
                self._release(slot)
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
        self._end(slot, error, question)
        raise error

    async def _exchange(self, slot: Slot, question: Message, is_sent: bool = False) -> Message:
        """The worker's answer; whatever comes instead of one ends the worker."""
        assert slot.process
        answer = slot.process.receive() if is_sent else slot.process.exchange(question)
        try:
            return await within(self._run_timeout_s, "running", answer)
        except (ComputeTimedOut, WorkerCrashed) as error:
            self._end(slot, error, question)
            raise
        except trio.Cancelled:
            # In mid-run, by deadline or by the caller: only the end of its process surely stops onnxruntime.
            self._crew.discard(slot)
            raise

    def _end(self, slot: Slot, error: EngineError, question: Message) -> None:
        # What an operator is given in a dispute comes from whoever disputes: the model is not to blame for it.
        self._crew.count_kill(slot.model, error, not isinstance(question, RunOperator | RunPart))
        self._crew.discard(slot)

    def _dispatch(self) -> None:
        """Give waiting jobs, oldest first, the workers that are free, and start those that are missing."""
        unsent = [job for job in self._waiting if not job.is_ahead]
        if not unsent:
            return
        for job in unsent:
            slots = [slot for slot in self._crew.slots if slot.model == job.model]
            ready = [slot for slot in slots if slot.state in ("idle", *(() if job.runs else ("running",)))]
            if ready:
                if not job.runs or self._count_running() < self._running_max:
                    self._assign(job, ready[0])
            elif len(slots) < self._running_max and all(slot.state == "running" for slot in slots):
                self._crew.start(job.model)
        if self._count_running() >= self._running_max:
            fed = [slot for slot in self._crew.slots if slot.state == "running" and slot.has_frame]
            for depth in range(AHEAD_MAX):  # nobody gets a second one before all have their first
                for slot in fed:
                    if len(slot.ahead) == depth and (not depth or (depth + 1) * slot.took_s <= AHEAD_S):
                        self._send_ahead(slot)

    def _send_ahead(self, slot: Slot) -> None:
        """Give a worker one more to run, if it is this model's turn: then it need not wait for us in between."""
        loaded = {each.model for each in self._crew.slots if each.state in ("idle", "running")}
        job = next((job for job in self._waiting if not job.is_ahead and job.model in loaded), None)
        if job is not None and job.model == slot.model and job.frame and self._is_fit(job, slot):
            assert slot.process
            if slot.process.send_now(job.frame):
                job.is_ahead = job.is_sent = True
                slot.ahead.append(job)

    def _count_running(self) -> int:
        """Runs that others wait for. As many overdue ones as there are workers go on beside them."""
        overdue_s = trio.current_time() - OVERDUE_S
        running = [slot.since_s <= overdue_s for slot in self._crew.slots if slot.state == "running"]
        return len(running) - min(sum(running), self._running_max)

    def _assign(self, job: Job, slot: Slot) -> None:
        if not self._is_fit(job, slot):
            return
        self._waiting.remove(job)
        self._clock += 1
        slot.used = self._clock
        if job.runs:
            assert slot.process
            job.is_ahead, job.is_sent = False, job.is_sent or (bool(job.frame) and slot.process.send_now(job.frame))
            if job.answer is None:
                self._begin_run(slot, job.is_sent)
        job.slot = slot
        job.decided.set()

    def _is_fit(self, job: Job, slot: Slot) -> bool:
        """Whether the job's inputs are what the model takes. Else it ends here."""
        try:
            if job.inputs is not None and not job.is_sent:
                verify_inputs(slot.inputs, job.inputs)
        except EngineError as error:
            self._fail(job, error)
            return False
        return True

    def _begin_run(self, slot: Slot, has_frame: bool) -> None:
        slot.state, slot.since_s, slot.has_frame = "running", trio.current_time(), has_frame

    def _release(self, slot: Slot) -> None:
        """Its run is over. The next ones may have been answered with it: all of these end now."""
        if slot.state == "running":
            assert slot.process
            slot.state, slot.took_s = "idle", trio.current_time() - slot.since_s
            while slot.ahead and slot.state == "idle":
                job, answer = slot.ahead.popleft(), slot.process.take_now()
                if job in self._waiting:
                    job.answer = answer
                    self._assign(job, slot)
                elif answer is None:
                    self._begin_run(slot, has_frame=True)
                    self._nursery.start_soon(self._drop_answer, slot)
        self._dispatch()

    async def _drop_answer(self, slot: Slot) -> None:
        """Whoever sent what this worker runs has gone."""
        with suppress(ComputeTimedOut, WorkerCrashed):
            await self._exchange(slot, Run(()), is_sent=True)
            self._release(slot)

    def _give_up(self, model: bytes, error: Exception) -> None:
        for job in [job for job in self._waiting if job.model == model]:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self._waiting.remove(job)
        job.error = error
        job.decided.set()

    def _close(self) -> None:
        self._is_closed = True
        for job in self._waiting:
            job.error = WorkerCrashed("the pool is closed")
            job.decided.set()
        self._waiting.clear()
        self._nursery.cancel_scope.cancel()
