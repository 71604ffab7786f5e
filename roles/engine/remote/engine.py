"""A node's engine: its own pool, and a server for each model that has one."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from protocol.errors import MissingBlob
from protocol.generation import is_generation
from protocol.proofs.steps import AnyAnswer, AnyQuestion
from protocol.tensor import Tensor
from roles.engine.errors import EngineError
from roles.engine.frames import Ran
from roles.engine.pool import Pool
from roles.engine.remote.backend import Backend, FindModel
from roles.engine.remote.settings import BackendConfig
from roles.engine.sandbox import Measure
from roles.engine.slots import Answer
from roles.engine.stepped import Stepped, say_nothing
from roles.engine.verdicts import Admission


@asynccontextmanager
async def open_engine(
    pool: Pool, configs: Sequence[BackendConfig], find_model: FindModel, place: str
) -> AsyncIterator["Engine"]:
    """The pool with servers beside it, which are looked after until the way out."""
    backends = tuple(Backend(config, find_model, pool.prepare, place) for config in configs)
    async with trio.open_nursery() as nursery:
        for backend in backends:
            nursery.start_soon(backend.run)
        yield Engine(nursery, pool, backends)
        nursery.cancel_scope.cancel()


class Engine:
    """Made by `open_engine`."""

    def __init__(self, nursery: trio.Nursery, pool: Pool, backends: tuple[Backend, ...]) -> None:
        self._nursery = nursery
        self._backends = backends
        self._pool = pool

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The servers, in the order of the configuration."""
        return self._backends

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What binds the newest worker process."""
        return self._pool.measures

    def get_admissions(self) -> dict[bytes, Admission]:
        """What the pool has found out about models; servers are given admitted ones alone."""
        return self._pool.get_admissions()

    async def compute(
        self,
        model: bytes,
        inputs: tuple[Tensor, ...],
        timeout_s: float,
        name: str = "",
        say: Callable[[Stepped], None] = say_nothing,
    ) -> tuple[tuple[Tensor, ...], str]:
        """As `Pool.compute`, or as `Backend.compute` for a model that has one, whatever state that is in."""
        backend = self._find_backend(model)
        if backend is None:
            return await self._pool.compute(model, inputs, timeout_s, name, say)
        return await backend.compute(inputs, timeout_s, name)

    def submit(
        self, model: bytes, inputs: tuple[Tensor, ...], timeout_s: float, name: str, on_end: Callable[[Answer], None]
    ) -> None:
        """As `Pool.submit`, whatever runs it."""
        if is_generation(inputs) or self._find_backend(model) is not None:
            self._nursery.start_soon(self._compute, model, inputs, timeout_s, name, on_end)
        else:
            self._pool.submit(model, inputs, timeout_s, name, on_end)

    async def _compute(
        self, model: bytes, inputs: tuple[Tensor, ...], timeout_s: float, name: str, on_end: Callable[[Answer], None]
    ) -> None:
        answer: Answer
        try:
            answer = Ran(*await self.compute(model, inputs, timeout_s, name))
        except (EngineError, MissingBlob, OSError) as error:
            answer = error
        on_end(answer)

    def _find_backend(self, model: bytes) -> Backend | None:
        return next((each for each in self._backends if each.is_for(model)), None)

    async def inspect(self, model: bytes, question: AnyQuestion, timeout_s: float) -> AnyAnswer:
        """As `Pool.inspect`: operators are only ever run here. No server gives the digest of each."""
        return await self._pool.inspect(model, question, timeout_s)

    def withdraw(self, name: str) -> bool:
        """As `Pool.withdraw`."""
        return self._pool.withdraw(name) or any(backend.withdraw(name) for backend in self._backends)
