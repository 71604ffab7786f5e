"""What a generation under way has made since it was last heard of. Needs no numpy, so that a node can read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from protocol.generation import PROMPT_TOKENS_MAX, TOKENS_MAX, make_outputs
from protocol.tensor import DIGEST_BYTES, Tensor
from protocol.types import AtMost, Line, UpTo, Whole

STEPS_MAX = PROMPT_TOKENS_MAX + TOKENS_MAX  # of one generation


@dataclass(frozen=True)
class Stepped:
    """Tokens, and the digests of the steps taken, packed: of reading the prompt too. `is_over` is 1 with the last."""

    tokens: Annotated[tuple[Whole, ...], AtMost(TOKENS_MAX)]
    steps: Annotated[bytes, AtMost(DIGEST_BYTES * STEPS_MAX)]
    is_over: Annotated[int, UpTo(1)]
    profile: Line


def join(parts: Sequence[Stepped]) -> tuple[tuple[Tensor, ...], str]:
    """The outputs that all parts come to, and the profile."""
    tokens = [token for part in parts for token in part.tokens]
    return make_outputs(tokens, b"".join(part.steps for part in parts)), parts[-1].profile


def say_nothing(part: Stepped) -> None:
    """Nobody wants to hear of a generation before it is over."""
