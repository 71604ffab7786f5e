"""Which worker process runs what, and when: jobs wait for one, runs go ahead into its pipe, its answers end them.

A run of one question and one answer costs no task of its own: a worker's answers are heard by one for as long as it has
something to run. Whoever has more to say to a worker than that is given it until it is released.
"""

import math
from collections.abc import Callable

import trio

from roles.engine.crew import Crew
from roles.engine.errors import (
    Busy,
    ComputeFailed,
    ComputeTimedOut,
    EngineError,
    ModelRefused,
    Withdrawn,
    WorkerCrashed,
)
from roles.engine.frames import Failed, Message, Ran
from roles.engine.process import FRAME_NOW_BYTES_MAX
from roles.engine.slots import Answer, Job, Slot
from roles.engine.specs import verify_inputs

AHEAD_MAX = 12  # jobs in a worker's pipe behind the one it runs: while we are busy it goes on
AHEAD_S = 0.04  # that they may take together; one always may
OVERDUE_S = 2.0  # a run that takes longer no longer keeps jobs on other models waiting


class Queue:
    """Jobs in the order in which they came. `make_crew` is told what to call when a slot is free or a model refused.

    `workers` run at a time, `waiting_max` wait at most, and no run may take longer than `run_timeout_s`. `watch` must
    run for as long as jobs may come.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        make_crew: Callable[[Callable[[], None], Callable[[bytes, Exception], None]], Crew],
        workers: int,
        waiting_max: int,
        run_timeout_s: float,
    ) -> None:
        self.crew = make_crew(self.dispatch, self._give_up)
        self.waiting: list[Job] = []
        self._nursery = nursery
        self._running_max = workers
        self._waiting_max = waiting_max
        self._run_timeout_s = run_timeout_s
        self._clock = 0
        self._look = trio.CancelScope()  # `watch` looks at its deadline
        self._is_closed = False

    def enter(self, job: Job) -> None:
        """Have the job wait for a worker; it may have ended when this returns.

        Raises Busy, ModelRefused, or WorkerCrashed once the pool is closed.
        """
        if self._is_closed:
            raise WorkerCrashed("the pool is closed")
        self._verify_admitted(job.model)
        # Where more models than one are in use, none may keep the others out: a quarter of the queue is not for it.
        models = {slot.model for slot in self.crew.slots if slot.model} | {other.model for other in self.waiting}
        own_max = self._waiting_max if models <= {job.model} else -(-3 * self._waiting_max // 4)
        own = sum(other.model == job.model for other in self.waiting)
        for waiting, most in ((len(self.waiting), self._waiting_max), (own, own_max)):
            if waiting >= most:
                self.crew.stats.refused_busy += 1
                raise Busy(waiting, most)
        self.waiting.append(job)
        self.dispatch()
        if self.waiting:
            now_s = trio.current_time()
            self._look.deadline = min(self._look.deadline, job.deadline_s, now_s + OVERDUE_S)

    def leave(self, job: Job) -> None:
        """Nobody waits for its end any more. In mid-run only the end of its process surely stops onnxruntime."""
        job.is_over = True
        if job in self.waiting:
            self.waiting.remove(job)
        for slot in self.crew.slots:
            if slot.running is job:
                slot.running = None
                self.crew.discard(slot)
                return

    def withdraw(self, name: str) -> bool:
        """Whether a run of this name was still waiting: then it ends with Withdrawn."""
        job = next((job for job in self.waiting if job.runs and job.name == name), None)
        if job is None:
            return False
        self._fail(job, Withdrawn("taken back before it began"))
        return True

    def release(self, slot: Slot) -> None:
        """Whoever was given it has no more to say."""
        if slot.state == "running":
            slot.state, slot.took_s = "idle", trio.current_time() - slot.since_s
        self.dispatch()

    def end(self, slot: Slot, error: EngineError, is_blamed: bool = True) -> None:
        """End a worker that has broken a rule, or died; its model is to blame for it unless not `is_blamed`."""
        self.crew.count_kill(slot.model, error, is_blamed)
        self.crew.discard(slot)

    async def watch(self) -> None:
        """End what waits past its deadline, and find out which runs have become overdue."""
        while True:
            with self._look:
                await trio.sleep_forever()
            now_s = trio.current_time()
            for job in list(self.waiting):
                self._is_late(job)
            self.dispatch()
            looks_s = (min(job.deadline_s, now_s + OVERDUE_S) for job in self.waiting)
            self._look = trio.CancelScope(deadline=min(looks_s, default=math.inf))

    def close(self) -> None:
        """Whoever waits for a worker is told; whoever has one finds out from it."""
        self._is_closed = True
        for job in list(self.waiting):
            self._fail(job, WorkerCrashed("the pool is closed"))

    def dispatch(self) -> None:
        """Give waiting jobs, oldest first, the workers that are free, and start those that are missing."""
        unsent = [job for job in self.waiting if not job.is_ahead]
        if not unsent:
            return
        for job in unsent:
            slots = [slot for slot in self.crew.slots if slot.model == job.model]
            ready = [slot for slot in slots if slot.state in ("idle", *(() if job.runs else ("running",)))]
            if ready:
                if not job.runs or self._count_running() < self._running_max:
                    self._assign(job, ready[0])
            elif len(slots) < self._running_max and all(slot.state == "running" for slot in slots):
                self.crew.start(job.model)
        if self._count_running() >= self._running_max:
            fed = [slot for slot in self.crew.slots if slot.running is not None]
            for depth in range(AHEAD_MAX):  # nobody gets a second one before all have their first
                for slot in fed:
                    if len(slot.ahead) == depth and (not depth or (depth + 1) * slot.took_s <= AHEAD_S):
                        self._send_ahead(slot)

    def _send_ahead(self, slot: Slot) -> None:
        """Give a worker one more to run, if it is this model's turn: then it need not wait for us in between."""
        loaded = {each.model for each in self.crew.slots if each.state in ("idle", "running")}
        job = next((job for job in self.waiting if not job.is_ahead and job.model in loaded), None)
        if job is not None and job.model == slot.model and job.on_slot is None and self._is_fit(job, slot):
            job.is_ahead = job.is_sent = _send_now(job, slot)
            if job.is_sent:
                slot.ahead.append(job)

    def _count_running(self) -> int:
        """Runs that others wait for. As many overdue ones as there are workers go on beside them."""
        overdue_s = trio.current_time() - OVERDUE_S
        running = [slot.since_s <= overdue_s for slot in self.crew.slots if slot.state == "running"]
        return len(running) - min(sum(running), self._running_max)

    def _assign(self, job: Job, slot: Slot) -> None:
        if self._is_late(job) or not self._is_fit(job, slot):
            return
        self._begin(job, slot)
        if job.on_slot is not None:
            job.on_slot(slot)
            return
        slot.running = job
        job.is_sent = _send_now(job, slot)
        if not slot.is_heard:
            slot.is_heard = True
            self._nursery.start_soon(self._hear_out, slot)

    def _is_fit(self, job: Job, slot: Slot) -> bool:
        """Whether the job's inputs are what the model takes. Else it ends here."""
        try:
            if job.inputs is not None:
                verify_inputs(slot.inputs, job.inputs)
        except EngineError as error:
            self._fail(job, error)
            return False
        return True

    def _is_late(self, job: Job) -> bool:
        """Whether it has waited past its deadline. Then it ends here."""
        if trio.current_time() < job.deadline_s:
            return False
        self.crew.stats.timed_out += 1
        self._fail(job, ComputeTimedOut(job.timeout_s, "waiting"))
        return True

    def _begin(self, job: Job, slot: Slot) -> None:
        """Its turn has come. An answer to what nobody waits for any more is waited for all the same."""
        if job in self.waiting and not (job.is_ahead and self._is_late(job)):
            self.waiting.remove(job)
        self._clock += 1
        slot.used = self._clock
        if job.runs:
            slot.state, slot.since_s = "running", trio.current_time()

    async def _hear_out(self, slot: Slot) -> None:
        """Hear a worker's answers until it has none to give any more."""
        assert slot.process
        try:
            while job := slot.running:
                reply = slot.process.take_now() if job.is_sent else None
                if reply is None:
                    self.dispatch()  # those that are answered have left room behind
                    reply = await self._hear(slot, job)
                    slot.took_s = trio.current_time() - slot.since_s
                if reply is not None and slot.running is job:
                    self._take(reply, slot, job)
        except trio.Cancelled:
            if slot.running is not None:
                _finish(slot.running, WorkerCrashed("the pool is closed"))
            raise
        slot.is_heard = False
        self.dispatch()

    async def _hear(self, slot: Slot, job: Job) -> Message | None:
        """The worker's answer; None if the job's time has run out or the worker has died, and has been seen to."""
        assert slot.process
        limit_s = slot.since_s + self._run_timeout_s
        deadline_s = limit_s if job.is_over else min(limit_s, job.deadline_s)
        try:
            with trio.CancelScope(deadline=deadline_s):
                return await slot.process.ask(b"" if job.is_sent else job.frame)
        except WorkerCrashed as crash:
            self._lose(slot, job, crash)
            return None
        if slot.running is job and deadline_s < limit_s:
            slot.running = None
            self.crew.stats.timed_out += 1
            self.crew.discard(slot)
            _finish(job, ComputeTimedOut(job.timeout_s, "running"))
        elif slot.running is job:
            slot.running = None
            error = ComputeTimedOut(self._run_timeout_s, "running")
            self.end(slot, error)
            _finish(job, error)
        return None

    def _take(self, reply: Message, slot: Slot, job: Job) -> None:
        """What the worker has answered ends the job; what it was given ahead comes next."""
        if not isinstance(reply, Ran | Failed):
            crash = WorkerCrashed(f"the worker process answered a Run with {type(reply).__name__}")
            self._lose(slot, job, crash)
            return
        slot.running = slot.ahead.popleft() if slot.ahead else None
        if slot.state == "running":
            slot.state = "idle"
        if slot.running is not None:
            self._begin(slot.running, slot)
        self.crew.verdicts.forgive(slot.model)
        self.crew.stats.completed += isinstance(reply, Ran)
        _finish(job, reply if isinstance(reply, Ran) else ComputeFailed(reply.reason))

    def _lose(self, slot: Slot, job: Job, error: WorkerCrashed) -> None:
        """A worker has died. What it ran is begun once more, by another: the model need not have killed it."""
        if slot.running is not job:
            return  # it was ended for whoever left
        slot.running = None
        self.end(slot, error)
        if job.is_again or job.is_over:
            _finish(job, error)
            return
        self.crew.verdicts.excuse(slot.model)
        job.is_again, job.is_sent = True, False
        try:
            self._verify_admitted(job.model)
        except ModelRefused as refusal:
            _finish(job, refusal)
        else:
            self.waiting.insert(0, job)
            self.dispatch()

    def _verify_admitted(self, model: bytes) -> None:
        verdict = self.crew.verdicts.get(model, trio.current_time())
        if verdict is not None and not verdict.is_admitted:
            raise ModelRefused(verdict.reason)

    def _give_up(self, model: bytes, error: Exception) -> None:
        for job in [job for job in self.waiting if job.model == model]:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        self.waiting.remove(job)
        _finish(job, error)


def _finish(job: Job, answer: Answer) -> None:
    if not job.is_over:
        job.is_over = True
        job.on_end(answer)


def _send_now(job: Job, slot: Slot) -> bool:
    """Whether its frame is in the worker's pipe."""
    assert slot.process
    return len(job.frame) <= FRAME_NOW_BYTES_MAX and slot.process.send_now(job.frame)
