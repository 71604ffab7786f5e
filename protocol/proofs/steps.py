"""A generation in dispute: first which step two nodes disagree about, then which part of that one step.

The outputs of a generation hold a digest of every step, so the worker shows those, with what it was asked, and the
challenger names the first step that differs. A step is then traced as a model is (`proofs.trace`), with three parts
around the model's own operators: number 0 is what the step takes, by the digests of the steps before it, which anybody
can compute; number 1 puts the model's inputs together from what those steps gave; the model's operators and its outputs
follow, one number higher than in a bare trace; last, in a step that makes a token, that token is picked.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated

from protocol.errors import InvalidProof, MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.generation import Generation, StepForm, make_numbers, read_inputs, read_outputs
from protocol.proofs.trace import (
    DIGEST_SIZE,
    Answer,
    Exhibit,
    Question,
    Trace,
    find_misfit,
    find_misfit_of,
)
from protocol.tensor import Tensor, compute_tensors_digest
from protocol.types import AtMost, Line, Whole

ASSEMBLY = 1  # the number of the part that puts a step's inputs together


@fast_dataclass(frozen=True)
class Generated:
    """All that is known of a generation without running it: what was asked, and what was answered."""

    inputs: Annotated[tuple[Tensor, ...], AtMost(2)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(2)]


@fast_dataclass(frozen=True)
class Said:
    """A `Generated`, read."""

    wanted: Generation
    form: StepForm
    tokens: tuple[int, ...]
    steps: Trace

    def get_token(self, step: int) -> int:
        """The token that a step reads."""
        prompt = self.wanted.prompt
        return prompt[step] if step < len(prompt) else self.tokens[step - len(prompt)]

    def get_made(self, step: int) -> int | None:
        """The token that a step makes; None while the prompt is being read."""
        place = step - len(self.wanted.prompt) + 1
        return self.tokens[place] if place >= 0 else None

    def list_sources(self, step: int) -> range:
        """The steps before it that a step takes from."""
        return range(max(0, step - self.form.rows), step)


@fast_dataclass(frozen=True)
class ForceSteps:
    """Asks an engine what every step of a generation gives when it reads the tokens that were answered."""

    generated: Generated


@fast_dataclass(frozen=True)
class ForcedSteps:
    """The digests of all steps, packed, and the token picked in each that makes one."""

    steps: Annotated[bytes, AtMost(64 * 1024)]
    picked: Annotated[tuple[Whole, ...], AtMost(1_024)]
    profile: Line


@fast_dataclass(frozen=True)
class TraceStep:
    """Asks an engine for a `TracedRun` of one step, and what one of its parts takes unless that is 0."""

    generated: Generated
    step: Whole
    operator: Whole


@fast_dataclass(frozen=True)
class RunPart:
    """Asks an engine for an `OperatorRun`: one part of a step alone, on what it is said to take."""

    generated: Generated
    step: Whole
    operator: Whole
    exhibit: Exhibit


AnyQuestion = Question | ForceSteps | TraceStep | RunPart
AnyAnswer = Answer | ForcedSteps


def read_generated(generated: Generated, form: StepForm) -> Said:
    """MalformedMessage unless the answer is as long as was asked for, and made of the model's tokens."""
    wanted = read_inputs(generated.inputs, form)
    tokens, steps = read_outputs(generated.outputs, wanted, form)
    return Said(wanted, form, tokens, tuple(steps[at : at + DIGEST_SIZE] for at in range(0, len(steps), DIGEST_SIZE)))


def find_step(said: Said, forced: ForcedSteps) -> int | None:
    """The first step that gives another thing than was answered, or another token; None when there is none.

    `forced` is of the tokens that were answered, so all before that step is the same, and those after it may be right.
    MalformedMessage when it is of another generation.
    """
    first = len(said.wanted.prompt) - 1
    if len(forced.steps) != DIGEST_SIZE * len(said.steps) or len(forced.picked) != len(said.tokens):
        raise MalformedMessage(f"{len(forced.picked)} tokens were picked, {len(said.tokens)} were answered")
    for step, digest in enumerate(said.steps):
        if forced.steps[DIGEST_SIZE * step : DIGEST_SIZE * (step + 1)] != digest:
            return step
        if step >= first and forced.picked[step - first] != said.tokens[step - first]:
            return step
    return None


def compute_taken(said: Said, step: int, steps: Sequence[bytes]) -> bytes:
    """The digest of what a step takes: its token, its place, and the digests of the steps whose rows it looks at."""
    numbers = said.get_token(step).to_bytes(8, "big") + step.to_bytes(8, "big")
    parts = b"".join(steps[source] for source in said.list_sources(step))
    return hashlib.sha256(b"rolemesh/v1/step\0" + numbers + parts).digest()


def compute_made(token: int) -> bytes:
    """The digest of a token that a step makes."""
    return compute_tensors_digest((make_numbers("int32", (token,)),))


def verify_step_binding(trace: Trace, said: Said, step: int) -> None:
    """InvalidProof unless the trace of a step begins with what it takes and ends with what was answered for it."""
    made = said.get_made(step)
    ends = (said.steps[step],) if made is None else (said.steps[step], compute_made(made))
    if len(trace) < 3 + len(ends):
        raise InvalidProof(f"a trace of {len(trace)} parts is none of a step")
    if trace[0] != compute_taken(said, step, said.steps):
        raise InvalidProof(f"the trace does not begin with what step {step} takes")
    if trace[-len(ends) :] != ends:
        raise InvalidProof(f"the trace does not end with what was answered for step {step}")


def find_step_misfit(said: Said, step: int, trace: Trace, operator: int, exhibit: Exhibit) -> str:
    """Why an exhibit cannot be what a part of a step takes; empty when it may. As `find_misfit`."""
    if operator != ASSEMBLY:
        return find_misfit(trace, operator, exhibit)
    if [item.operator for item in exhibit.items] != list(said.list_sources(step)):
        return f"step {step} takes from steps {said.list_sources(step)}, the exhibit is of others"
    return find_misfit_of(said.steps, exhibit)
