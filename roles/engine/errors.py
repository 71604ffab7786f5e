"""What can go wrong between a model, its inputs and its outputs. `code` is the word that travels."""

from typing import ClassVar


class EngineError(Exception):
    """Anything the engine raises on purpose. The message is a reason that its reader can act on."""

    code: ClassVar[str] = "engine"


class ModelRefused(EngineError):
    """This model is not run here, now or later: the fault lies in its bytes."""

    code = "model_refused"


class NotAdmitted(ModelRefused):
    """It was refused by its file alone: no other code has seen it."""

    code = "not_admitted"


class BadInput(EngineError):
    """The inputs are not what the model takes."""

    code = "bad_input"

    def __init__(self, what: str, expected: str, got: str) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.what = what
        self.expected = expected
        self.got = got


class ComputeFailed(EngineError):
    """The model gave nothing that can be signed: an operator failed, or an output is NaN, infinite or too large."""

    code = "compute_failed"


class Busy(EngineError):
    """The queue is full: ask again later, or another node."""

    code = "busy"

    def __init__(self, waiting: int, waiting_max: int) -> None:
        super().__init__(f"{waiting} jobs are waiting, at most {waiting_max} may")
        self.waiting = waiting
        self.waiting_max = waiting_max


class Withdrawn(EngineError):
    """The job was taken back before a worker had it."""

    code = "withdrawn"


class ComputeTimedOut(EngineError):
    """The deadline passed. `phase` is what the job was doing: loading, waiting or running."""

    code = "timed_out"

    def __init__(self, timeout_s: float, phase: str) -> None:
        super().__init__(f"still {phase} after {timeout_s:.3f} s")
        self.timeout_s = timeout_s
        self.phase = phase


class WorkerCrashed(EngineError):
    """The worker process ended in mid-job. `stderr` is the tail of what it last wrote."""

    code = "worker_crashed"

    def __init__(self, reason: str, stderr: str = "") -> None:
        super().__init__(f"{reason}: {stderr}" if stderr else reason)
        self.stderr = stderr
