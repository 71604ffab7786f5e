"""Make text with a model, one step at a time, its caches held here: the same tokens and the same bytes every time.

A step is one run of the graph for one token. What it gives is digested whole, then the next token is picked from its
logits by whole numbers alone (`protocol.generation`). Steps are never joined: reading a prompt in one pass would move
bits, and the digest of a step would depend on how it was run.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

from protocol.generation import StepForm, count_steps, is_over, pick_token, read_form
from protocol.tensor import Tensor, compute_tensors_digest
from roles.engine.errors import ModelRefused
from roles.engine.profile import format_profile
from roles.engine.session import Session, load_session, run_arrays, to_output
from roles.engine.specs import verify_generation
from roles.engine.stepped import Stepped, join

OPTIMISE = "disable"
STEPS_AT_A_TIME = 8  # at most, before whoever asked is heard again
SLICE_S = 0.02  # no further step begins after so long

Array = np.ndarray[Any, np.dtype[Any]]


def load_plain(model: bytes, session: Session) -> Session:
    """The session that makes text: of the file's own graph, whatever the node's level of optimisation.

    It is as fast, and a step that is in dispute can be traced to one operator.
    """
    return session if session.optimise == OPTIMISE else load_session(model, OPTIMISE)


class Caches:
    """What the steps so far have left for the next one. All zeros at the start, as every machine has them."""

    def __init__(self, session: Session, form: StepForm) -> None:
        self._session = session
        self._form = form
        specs = session.inputs[2:]
        self.arrays: list[Array] = [np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in specs]
        self.place = 0

    def step(self, token: int) -> tuple[Tensor, ...]:
        """All that the model gives for the next token. ComputeFailed."""
        results = run_arrays(self._session.inner, self._name(token))
        outputs = tuple(to_output(spec, result) for spec, result in zip(self._session.outputs, results, strict=True))
        self.keep(outputs)
        return outputs

    def keep(self, outputs: Sequence[Tensor]) -> None:
        """Take the rows of a step's outputs into the caches, without running it."""
        at = (slice(None),) * self._form.axis + (self.place % self._form.rows,)
        for cache, tensor in zip(self.arrays, outputs[1:], strict=True):
            cache[at] = np.frombuffer(tensor.data, cache.dtype).reshape(tensor.shape)
        self.place += 1

    def show(self, token: int) -> tuple[Tensor, ...]:
        """What the next step takes, as tensors."""
        named = self._name(token)
        return tuple(
            Tensor(spec.dtype, tuple(named[spec.name].shape), named[spec.name].tobytes())
            for spec in self._session.inputs
        )

    def _name(self, token: int) -> dict[str, Array]:
        numbers = [np.array([token], np.int64), np.array([self.place], np.int64)]
        return dict(zip((spec.name for spec in self._session.inputs), [*numbers, *self.arrays], strict=True))


class Writer:
    """One generation under way. With `forced` tokens it reads those, whatever it would pick itself."""

    def __init__(self, session: Session, inputs: Sequence[Tensor], forced: Sequence[int] = ()) -> None:
        """Raises BadInput, or ModelRefused when the model makes no text."""
        form = read_form(session.inputs, session.outputs)
        if form is None:
            raise ModelRefused("the model is no step of a generation")
        self.wanted = verify_generation(tuple(inputs), form)
        self.session = session
        self.caches = Caches(session, form)
        self.picked: list[int] = []
        self._forced = forced
        self._profile = format_profile(onnxruntime.__version__, session.optimise, 1, session.threads)

    @property
    def tokens(self) -> Sequence[int]:
        """What was made so far, or what was to be read."""
        return self._forced or self.picked

    def step(self) -> bytes:
        """Take one step: its digest."""
        place, prompt = self.caches.place, self.wanted.prompt
        token = prompt[place] if place < len(prompt) else self.tokens[place - len(prompt)]
        outputs = self.caches.step(token)
        if place >= len(prompt) - 1:
            self.picked.append(pick_token(outputs[0].data, self.wanted, place))
        return compute_tensors_digest(outputs)

    def is_over(self) -> bool:
        if self._forced:
            return self.caches.place == count_steps(self.wanted, len(self._forced))
        return is_over(self.picked, self.wanted)

    def go_on(self, clock: Callable[[], float] = time.monotonic) -> Stepped:
        """A few steps more."""
        begun, before = clock(), len(self.picked)
        steps: list[bytes] = []
        while not self.is_over() and len(steps) < STEPS_AT_A_TIME and (not steps or clock() < begun + SLICE_S):
            steps.append(self.step())
        return Stepped(tuple(self.picked[before:]), b"".join(steps), int(self.is_over()), self._profile)


def generate(
    session: Session, inputs: Sequence[Tensor], say: Callable[[Stepped], None] | None = None
) -> tuple[tuple[Tensor, ...], str]:
    """The outputs of a whole generation, and its profile; `say` hears of every few steps, always cut alike."""
    writer = Writer(session, inputs)
    parts: list[Stepped] = []
    while not parts or not parts[-1].is_over:
        parts.append(writer.go_on(clock=lambda: 0.0))
        if say is not None:
            say(parts[-1])
    return join(parts)
