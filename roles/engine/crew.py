"""The worker processes of a pool, one model each: started, loaded, blamed and killed."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import trio

from protocol.content import compute_digest
from protocol.errors import MissingBlob
from roles.engine.errors import ComputeTimedOut, EngineError, ModelRefused, NotAdmitted, WorkerCrashed
from roles.engine.frames import Bound, Failed, Load, Loaded
from roles.engine.process import PROBE, WorkerProcess
from roles.engine.sandbox import Measure
from roles.engine.slots import PoolStats, Slot
from roles.engine.specs import verify_size
from roles.engine.verdicts import Admission, Verdicts

START_TIMEOUT_S = 20.0  # start of the process and imports; a busy machine takes seconds for what takes 0.2 s alone

V = TypeVar("V")
LoadBlob = Callable[[bytes], Awaitable[bytes]]


class Crew:
    """At most `slots_max` processes. `on_change` hears of a slot that is free, `on_failed` of a model that is not run.

    `load_blob` gives a model's bytes by digest and may raise MissingBlob or OSError.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        load_blob: LoadBlob,
        slots_max: int,
        load_timeout_s: float,
        optimise: str,
        module: str,
        on_change: Callable[[], None],
        on_failed: Callable[[bytes, Exception], None],
    ) -> None:
        self.slots: list[Slot] = []
        self.verdicts = Verdicts()
        self.stats = PoolStats()
        self.measures: tuple[Measure, ...] = ()  # what binds the newest worker process, by its own account
        self._nursery = nursery
        self._load_blob = load_blob
        self._slots_max = slots_max
        self._load_timeout_s = load_timeout_s
        self._optimise = optimise
        self._module = module
        self._on_change = on_change
        self._on_failed = on_failed

    def start(self, model: bytes) -> None:
        """A new slot, unless all places are taken by models in use: then a later release makes room."""
        # Models that take long to load must leave room for those that do not.
        if sum(slot.state == "loading" for slot in self.slots) >= max(1, self._slots_max // 2):
            return
        for slot in self.slots:
            if slot.state == "spare":
                slot.model, slot.state = model, "loading"
                self._nursery.start_soon(self._reload, slot)
                return
        if len(self.slots) >= self._slots_max:
            idle = [slot for slot in self.slots if slot.state == "idle"]
            if not idle:
                return
            self._remove(min(idle, key=lambda slot: slot.used))
        slot = Slot(model)
        self.slots.append(slot)
        self._nursery.start_soon(self._tend, slot)

    def count_kill(self, model: bytes, error: EngineError, is_blamed: bool = True) -> None:
        self.stats.crashed += 1
        if refusal := self.verdicts.count_kill(model, str(error), trio.current_time(), is_blamed):
            self.stats.blamed += 1
            self._on_failed(model, ModelRefused(refusal.reason))

    def discard(self, slot: Slot) -> None:
        self._remove(slot)
        self._on_change()

    def _remove(self, slot: Slot) -> None:
        """Kill its process, which ends its `_tend`; the place is free at once."""
        slot.state = "gone"
        for job in slot.ahead:  # they wait for another one, also if one of them has ended this one (0173)
            job.is_ahead = job.is_sent = False
        slot.ahead.clear()
        if slot in self.slots:
            self.slots.remove(slot)
        if slot.process:
            slot.process.kill()

    async def _tend(self, slot: Slot) -> None:
        """The life of one worker process, from start to end."""
        try:
            await trio.sleep(self.verdicts.compute_backoff_s(slot.model))
            await self._live(slot)
        finally:
            self.discard(slot)

    async def _live(self, slot: Slot) -> None:
        model = await self._fetch(slot.model)
        if model is None:
            return
        try:
            slot.process = WorkerProcess(self._module)
        except OSError as error:
            self._on_failed(slot.model, WorkerCrashed(f"no worker process could be started: {error}"))
            return
        self.stats.started += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load, slot, model)
            await slot.process.watch()
            nursery.cancel_scope.cancel()

    async def _reload(self, slot: Slot) -> None:
        """Give a process that holds no model one."""
        await trio.sleep(self.verdicts.compute_backoff_s(slot.model))
        model = await self._fetch(slot.model)
        if model is None:
            self.discard(slot)
        elif slot.state == "loading":
            await self._load(slot, model)

    async def _fetch(self, digest: bytes) -> bytes | None:
        """A model's bytes; None, and those who wait are told, when there are none to load."""
        try:
            model = await self._load_blob(digest)
            if compute_digest(model) != digest:
                raise MissingBlob(digest)
            verify_size(model)  # what is larger fits no frame
        except (MissingBlob, OSError) as error:
            self._on_failed(digest, error)
            return None
        except ModelRefused as refusal:
            self._refuse(digest, str(refusal))
            return None
        return model

    async def _load(self, slot: Slot, model: bytes) -> None:
        assert slot.process
        has_begun = slot.has_begun
        try:
            if not has_begun:
                await self._hear_measures(slot.process)
            has_begun = slot.has_begun = True
            reply = await within(self._load_timeout_s, "loading", slot.process.exchange(Load(model, self._optimise)))
            if isinstance(reply, Loaded):
                slot.inputs, slot.outputs, slot.state = reply.inputs, reply.outputs, "idle"
                self.verdicts.settle(slot.model, Admission(True, _describe(reply)))
                self._on_change()
                return
            if not isinstance(reply, Failed):
                raise WorkerCrashed(f"the worker process answered a load with {type(reply).__name__}")
            self._refuse(slot.model, reply.reason)
            if reply.code == NotAdmitted.code and not any(each.state == "spare" for each in self.slots):
                # Nobody but our own reader has seen those bytes: the process is as good as new.
                slot.model, slot.state = b"", "spare"
                self._on_change()
                return
        except (ComputeTimedOut, WorkerCrashed) as error:
            self.count_kill(slot.model, error, has_begun)
            self._on_failed(slot.model, error)
        self.discard(slot)

    async def _hear_measures(self, process: WorkerProcess) -> None:
        reply = await within(START_TIMEOUT_S, "starting", process.receive())
        if not isinstance(reply, Bound):
            raise WorkerCrashed(f"the worker process began with {type(reply).__name__}")
        self.measures = reply.measures

    async def probe(self) -> None:
        """Ask a process that loads nothing what would bind it, so that it is known before the first job."""
        try:
            process = WorkerProcess(PROBE)
        except OSError:
            return  # the first job will say so, to someone who can act on it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.watch)
            with suppress(WorkerCrashed, ComputeTimedOut):
                await self._hear_measures(process)
            process.kill()

    def _refuse(self, model: bytes, reason: str) -> None:
        self.verdicts.settle(model, Admission(False, reason))
        self._on_failed(model, ModelRefused(reason))


async def within(timeout_s: float, phase: str, answer: Awaitable[V]) -> V:
    """The answer, or ComputeTimedOut."""
    with trio.move_on_after(timeout_s):
        return await answer
    raise ComputeTimedOut(timeout_s, phase)


def _describe(loaded: Loaded) -> str:
    return f"takes {', '.join(map(str, loaded.inputs))}; gives {', '.join(map(str, loaded.outputs))}"
