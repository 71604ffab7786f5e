"""What a pool keeps of its workers, of who waits for one, and of what it has done."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from protocol.tensor import Tensor
from roles.engine.frames import Ran
from roles.engine.process import WorkerProcess
from roles.engine.specs import IoSpec


@dataclass
class PoolStats:
    """Counters since the pool was opened."""

    started: int = 0
    crashed: int = 0
    timed_out: int = 0
    blamed: int = 0
    refused_busy: int = 0
    completed: int = 0


@dataclass(eq=False)
class Slot:
    """A worker process and the model it holds."""

    model: bytes
    state: str = "loading"  # then "idle" and "running" in turn, or "spare" without a model, at last "gone"
    has_begun: bool = False  # whether the process has said what binds it
    process: WorkerProcess | None = None
    inputs: tuple[IoSpec, ...] = ()
    outputs: tuple[IoSpec, ...] = ()
    used: int = 0
    since_s: float = 0.0  # when its run began
    took_s: float = math.inf  # the last one
    running: "Job | None" = None  # if that is one question and one answer: then it may be given the next ones ahead
    ahead: "deque[Job]" = field(default_factory=deque)
    is_heard: bool = False  # whether a task waits for its answers


Answer = Ran | Exception  # to a run of one question and one answer, or what there is instead


@dataclass(eq=False)
class Job:
    """Somebody waiting for a worker that holds `model`: to have it run, to talk to it, or only to know it is loaded.

    `frame` is all that the first has to say, and `on_end` hears the answer. The others hear of the slot by `on_slot`;
    it is their own from then on if the job `runs`. `inputs`, if any, must be what the model takes.
    """

    model: bytes
    runs: bool
    on_end: Callable[[Answer], None]
    on_slot: Callable[[Slot], None] | None = None
    name: str = ""
    inputs: tuple[Tensor, ...] | None = None
    frame: bytes = b""
    timeout_s: float = math.inf
    deadline_s: float = math.inf
    is_sent: bool = False  # its frame is in a worker's pipe
    is_ahead: bool = False  # in that of a worker that has others to answer first
    is_again: bool = False  # the first worker it was given has died
    is_over: bool = False  # nobody waits for its end any more


class Promise:
    """How a job ended, for a task that waits for it."""

    def __init__(self) -> None:
        self.ended: Slot | Answer | None = None
        self._event = trio.Event()

    def keep(self, ended: Slot | Answer) -> None:
        self.ended = ended
        self._event.set()

    async def wait(self) -> Slot | Ran:
        """Raises what went wrong."""
        await self._event.wait()
        if isinstance(self.ended, Exception):
            raise self.ended
        assert self.ended is not None
        return self.ended


@dataclass(eq=False)
class Writing:
    """A generation that runs."""

    began_s: float
    ends_s: float
    is_unwanted: bool = False
