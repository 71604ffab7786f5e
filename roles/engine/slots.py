"""What a pool keeps of its workers, of who waits for one, and of what it has done."""

import math
from collections import deque
from dataclasses import dataclass, field

import trio

from protocol.tensor import Tensor
from roles.engine.frames import Message
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
    has_frame: bool = False  # whether its run is one frame, which it has: then it may be given the next ones ahead
    ahead: "deque[Job]" = field(default_factory=deque)


@dataclass(eq=False)
class Job:
    """Somebody waiting for a worker that holds `model`: to run it, or only to know that it is loaded.

    `inputs`, if any, must be what the model takes. `frame` is all there is to say for a run whose answer is one frame
    too, and small enough to go into a pipe as a whole.
    """

    model: bytes
    runs: bool
    name: str = ""
    inputs: tuple[Tensor, ...] | None = None
    frame: bytes = b""
    is_sent: bool = False  # its frame is in a worker's pipe
    is_ahead: bool = False  # in that of a worker that has others to answer first
    decided: trio.Event = field(default_factory=trio.Event)
    slot: Slot | None = None
    answer: Message | None = None  # if it was there when the job's turn came
    error: Exception | None = None


@dataclass(eq=False)
class Writing:
    """A generation that runs."""

    began_s: float
    ends_s: float
    is_unwanted: bool = False
