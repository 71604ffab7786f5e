"""Load a model in a worker process, under all its limits, to learn what it takes and gives, or why it is not run."""

import trio

from roles.engine.errors import ComputeTimedOut, EngineError, ModelRefused
from roles.engine.frames import Failed, Load, Loaded
from roles.engine.process import WorkerProcess

LOAD_TIMEOUT_S = 20.0


def examine(model: bytes) -> Loaded:
    """Raises EngineError: ModelRefused with the reason, ComputeTimedOut, WorkerCrashed."""
    return trio.run(_examine, model)


async def _examine(model: bytes) -> Loaded:
    process = WorkerProcess()
    found: Loaded | None = None
    error: EngineError = ComputeTimedOut(LOAD_TIMEOUT_S, "loading")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.watch)
        with trio.move_on_after(LOAD_TIMEOUT_S):
            try:
                await process.receive()  # what binds it
                answer = await process.exchange(Load(model, "all"))
                if isinstance(answer, Loaded):
                    found = answer
                elif isinstance(answer, Failed):
                    error = ModelRefused(answer.reason)
            except EngineError as failed:
                error = failed
        nursery.cancel_scope.cancel()
    if found is None:
        raise error
    return found
