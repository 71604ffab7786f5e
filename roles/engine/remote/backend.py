"""One model run by one server: looked after, asked with bounds, given up while it is not to be relied on.

A server is looked at every few seconds. It is *ready* when it is there, says it is ready and has the model with the
inputs and outputs it should; *down* after failures in a row, or when a look finds nobody; then *trying*: one job at a
time, until one has an answer. Looks at a server that is down become rarer, and are spread by chance.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import trio

from protocol.errors import MissingBlob
from protocol.generation import is_generation, read_form
from protocol.ledger.model_records import ModelRecord
from protocol.tensor import Tensor
from roles.engine.errors import Busy, ComputeTimedOut, EngineError, ModelRefused, Withdrawn
from roles.engine.remote.client import OipClient, open_client
from roles.engine.remote.errors import BackendDown, BackendFailed, BackendRefused, BadAnswer, Unfit
from roles.engine.remote.metadata import Server, format_remote_profile, verify_metadata
from roles.engine.remote.settings import LOCAL, BackendConfig
from roles.engine.remote.wire import ask
from roles.engine.specs import IoSpec, verify_inputs

WAITING_MAX = 64
FAILURES_MAX = 3  # in a row, then nothing is asked for a while
LOOK_EVERY_S = 5.0
LOOK_S_MAX = 5.0  # for one look
PREPARE_S_MAX = 60.0  # for a worker process here to load the model once, and tell what it takes and gives
WAIT_S = 1.0  # from one look to the next for what the ledger or the network has to bring
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.25, 30.0

Specs = tuple[tuple[IoSpec, ...], tuple[IoSpec, ...]]
Prepare = Callable[[bytes, float], Awaitable[Specs]]
FindModel = Callable[[str], ModelRecord | None]


class _NotYet(Exception):
    """What the node itself has not got."""


class BackendState(StrEnum):
    """How much a server is relied on."""

    WAITING = "waiting"  # for the ledger, the model's file, or the first look
    READY = "ready"
    TRYING = "trying"
    DOWN = "down"
    UNFIT = "unfit"


@dataclass
class BackendStats:
    """Counters since the node has started."""

    answered: int = 0
    failed: int = 0
    timed_out: int = 0
    refused_busy: int = 0
    opened: int = 0  # how often it was given up


@dataclass(eq=False)
class _Job:
    name: str
    turn: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class Backend:
    """`find_model` looks into the ledger; `prepare` tells what a model takes and gives (`Pool.prepare`).

    `place` stands in the profile for what the server runs on, `look_every_s` is how often it is looked at.
    """

    def __init__(
        self,
        config: BackendConfig,
        find_model: FindModel,
        prepare: Prepare,
        place: str,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.config = config
        self.stats = BackendStats()
        self.state = BackendState.WAITING
        self.reason = "it has not been looked at yet"
        self._find_model = find_model
        self._prepare = prepare
        self._place = place
        self._look_every_s = look_every_s
        self._model: bytes | None = None
        self._specs: Specs | None = None
        self._server: Server | None = None
        self._client: OipClient | None = None
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._asked = 0
        self._failures = 0  # in a row
        self._opened = 0  # in a row
        self._doubt = trio.Event()

    def is_for(self, model: bytes) -> bool:
        """Whether jobs on this model are its own, in whatever state it is: they never fall back on another way."""
        if self._model is None:
            record = self._find_model(self.config.model)
            self._model = record.digest if record is not None else None
        return self._model == model

    async def run(self) -> None:
        """Look after the server until cancelled."""
        async with open_client(self.config) as client:
            self._client = client
            while True:
                await self._look(client)
                self._doubt = trio.Event()
                with trio.move_on_after(self._compute_pause_s()):
                    await self._doubt.wait()
                    if not self._is_open:  # given up by its jobs, just now
                        await trio.sleep(self._compute_pause_s())

    async def compute(
        self, inputs: tuple[Tensor, ...], timeout_s: float, name: str = ""
    ) -> tuple[tuple[Tensor, ...], str]:
        """Outputs and profile of one run. `name` is for `withdraw`.

        Raises BackendDown, BackendFailed, BackendRefused, BadAnswer, Unfit, Busy, BadInput, ComputeFailed,
        ComputeTimedOut (after `timeout_s` in all, or the backend's own limit for one request) or Withdrawn.
        """
        self._verify_open()
        assert self._specs is not None
        if is_generation(inputs) and read_form(*self._specs) is not None:
            # A request and a cache each way for every token would be no help to anybody.
            hint = f"`--backend {self.config.model}={LOCAL}` has the node do it"
            raise BackendRefused(f"{self.config.model} has a server, and servers generate nothing here; {hint}")
        verify_inputs(self._specs[0], inputs)
        if len(self._waiting) >= WAITING_MAX:
            self.stats.refused_busy += 1
            raise Busy(len(self._waiting), WAITING_MAX)
        phase = "waiting"
        with trio.move_on_after(timeout_s):
            await self._wait_turn(name)
            try:
                phase = "running"
                return await self._run(inputs)
            finally:
                self._running -= 1
                self._admit()
        self.stats.timed_out += 1
        raise ComputeTimedOut(timeout_s, phase)

    def withdraw(self, name: str) -> bool:
        """As `Pool.withdraw`."""
        job = next((job for job in self._waiting if job.name == name), None)
        if job is None:
            return False
        self._waiting.remove(job)
        job.error = Withdrawn("taken back before it began")
        job.turn.set()
        return True

    def describe(self) -> dict[str, Any]:
        """For `node status` and metrics."""
        server = self._server
        return {
            "url": self.config.url,
            "state": str(self.state),
            "reason": self.reason,
            "server": "" if server is None else str(server),
            "tensors": "" if server is None else "binary" if server.is_binary else "json",
            "running": self._running,
            "waiting": len(self._waiting),
            **asdict(self.stats),
        }

    # Its turns

    async def _wait_turn(self, name: str) -> None:
        job = _Job(name)
        self._waiting.append(job)
        self._admit()
        try:
            await job.turn.wait()
        except trio.Cancelled:
            if job in self._waiting:
                self._waiting.remove(job)
            elif job.error is None:  # its turn has come, and goes to the next
                self._running -= 1
                self._admit()
            raise
        if job.error is not None:
            raise job.error

    def _admit(self) -> None:
        """Give turns to who waits longest."""
        most = {BackendState.READY: self.config.concurrency, BackendState.TRYING: 1}.get(self.state, 0)
        while self._waiting and self._running < most:
            self._running += 1
            self._waiting.popleft().turn.set()

    async def _run(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], str]:
        self._verify_open()  # it may have been given up in between
        assert self._specs is not None
        assert self._server is not None
        assert self._client is not None
        server, self._asked = self._server, self._asked + 1
        question = ask(self._specs, inputs, self._asked, server.is_binary)
        try:
            with trio.fail_after(self.config.timeout_s):
                outputs = await self._client.infer(question)
        except trio.TooSlowError as error:
            self._count_failure(f"no answer within {self.config.timeout_s} s")
            raise ComputeTimedOut(self.config.timeout_s, "running") from error
        except (BackendDown, BackendFailed, BadAnswer) as error:
            self._count_failure(str(error))
            raise
        except EngineError:
            self.stats.failed += 1  # of this job's own inputs, for all we know: the server is not blamed
            raise
        self.stats.answered += 1
        self._failures = self._opened = 0
        if self.state is BackendState.TRYING:
            self._become(BackendState.READY, "")
        return outputs, format_remote_profile(server, self._place, question.rows)

    def _count_failure(self, reason: str) -> None:
        self.stats.failed += 1
        self._failures += 1
        if self._failures >= FAILURES_MAX or self.state is BackendState.TRYING:
            self._give_up(BackendState.DOWN, f"{self._failures} failures in a row, the last: {reason}")
        self._doubt.set()

    # Its state

    async def _look(self, client: OipClient) -> None:
        """Find out how the server is."""
        was_open = self._is_open
        try:
            specs = self._specs = self._specs or await self._learn_specs()
            with trio.fail_after(LOOK_S_MAX):
                await self._inspect(client, specs)
        except trio.TooSlowError:
            # Some servers say nothing while they compute: then the jobs under way find out, by their own limit.
            if not self._running:
                self._give_up(BackendState.DOWN, f"{self.config.base} says nothing for {LOOK_S_MAX:g} s")
        except Unfit as error:
            self._give_up(BackendState.UNFIT, str(error))
        except (_NotYet, MissingBlob, OSError) as error:
            reason = str(error) if isinstance(error, _NotYet) else "the model's file is not here yet"
            self._give_up(BackendState.WAITING, reason)
        except EngineError as error:
            self._give_up(BackendState.DOWN, str(error))
        else:
            if was_open:
                return  # or given up by its jobs during the look: then the next one counts
            # Whether what was given up for its answers does better now, only a job can show.
            if self._failures:
                self._become(BackendState.TRYING, f"after {self._failures} failures in a row one job at a time is sent")
            else:
                self._opened = 0
                self._become(BackendState.READY, "")

    async def _learn_specs(self) -> Specs:
        """What the model takes and gives, by its own file; a process here reads it, as it does every model."""
        record = self._find_model(self.config.model)
        if record is None:
            raise _NotYet(f"the ledger has no model {self.config.model}; `rolemesh model ls` shows those there are")
        self._model = record.digest
        try:
            return await self._prepare(record.digest, PREPARE_S_MAX)
        except ModelRefused as error:
            raise Unfit(str(error)) from error

    async def _inspect(self, client: OipClient, specs: Specs) -> None:
        server = await client.describe()
        await client.verify_ready()
        verify_metadata(await client.describe_model(), *specs)
        self._server = server

    @property
    def _is_open(self) -> bool:
        return self.state in (BackendState.READY, BackendState.TRYING)

    def _compute_pause_s(self) -> float:
        """Until the next look; by chance a little less, so that many nodes do not look at once."""
        if self._is_open:
            pause_s = self._look_every_s
        elif self.state is BackendState.WAITING:
            pause_s = WAIT_S
        else:
            pause_s = min(BACKOFF_S_MIN * 2 ** min(self._opened, 16), BACKOFF_S_MAX)
        return pause_s * random.uniform(0.5, 1.0)

    def _verify_open(self) -> None:
        if not self._is_open:
            raise BackendDown(f"{self.config.model} at {self.config.base} is {self.state}: {self.reason}")

    def _give_up(self, state: BackendState, reason: str) -> None:
        self._opened += 1
        self.stats.opened += self._is_open
        self._become(state, reason[:400])
        for job in self._waiting:
            job.error = BackendDown(f"{self.config.model} at {self.config.base} is {state}: {self.reason}")
            job.turn.set()
        self._waiting.clear()

    def _become(self, state: BackendState, reason: str) -> None:
        self.state, self.reason = state, reason
        self._admit()
