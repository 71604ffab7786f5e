"""Text made token by token: what a request for it looks like, which models can serve it, what its outputs must be.

A model that generates is a graph of one *step*: it takes a token, its place in the text and caches of what earlier
steps gave, and gives the logits of the next token with one new row for each cache. Whoever runs it keeps the caches:
the row of the token at place p is p mod the number of rows; rows not written yet are zeros.

A request holds two tensors, the prompt and the settings. Its outputs are the tokens made and one digest per step, so
that the one output digest covers the logits of every step and not only what was picked from them.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.tensor import DIGEST_BYTES, Tensor, verify_tensor

PROMPT_TOKENS_MAX = 512
TOKENS_MAX = 512  # made by one request
TEMPERATURE_MAX = 10_000  # thousandths
NO_STOP = -1
SETTINGS = 4  # numbers in the tensor of settings
_PARAMETERS = 2  # tensors in a request for a generation; a step takes three at least


class Spec(Protocol):
    """What a model takes or gives in one place, on the ledger or by its file."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@fast_dataclass(frozen=True)
class StepForm:
    """How a model's step is called: how many tokens there are, and the axis and number of rows of its caches."""

    vocabulary: int
    axis: int
    rows: int


@fast_dataclass(frozen=True)
class Generation:
    """What is asked for. `temperature` in thousandths, 0 for the likeliest token at each step, whatever the `seed`.

    It ends after `max_tokens`, or with the token `stop`, which is part of it; NO_STOP for none.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: int = 0
    seed: int = 0
    stop: int = NO_STOP

    @property
    def units(self) -> int:
        """What it is metered in, and so paid for: the tokens read and the tokens asked for."""
        return len(self.prompt) + self.max_tokens


def read_form(inputs: Sequence[Spec], outputs: Sequence[Spec]) -> StepForm | None:
    """The form of a model that takes and gives this; None when it is no step of a generation."""
    caches, rows = inputs[2:], outputs[1:]
    if not caches or len(caches) != len(rows):
        return None
    if any((spec.dtype, spec.shape) != ("int64", (0,)) for spec in inputs[:2]):
        return None
    if outputs[0].dtype != "float32" or len(outputs[0].shape) != 2 or outputs[0].shape[0]:
        return None
    forms = {_find_axis(cache.shape, row.shape) for cache, row in zip(caches, rows, strict=True)}
    types = all(cache.dtype == row.dtype for cache, row in zip(caches, rows, strict=True))
    axis, count = next(iter(forms))
    return StepForm(outputs[0].shape[1], axis, count) if len(forms) == 1 and types and axis else None


def is_generation(inputs: Sequence[Tensor]) -> bool:
    """Whether these inputs, for a model that has a form, ask for a generation and not for one bare step."""
    return len(inputs) == _PARAMETERS


def make_inputs(wanted: Generation) -> tuple[Tensor, ...]:
    """The inputs of a request for it."""
    settings = (wanted.max_tokens, wanted.temperature, wanted.seed, wanted.stop)
    return make_numbers("int64", wanted.prompt), make_numbers("int64", settings)


def read_inputs(inputs: Sequence[Tensor], form: StepForm) -> Generation:
    """What inputs ask for. MalformedMessage, with the numbers, unless the model can do it."""
    if not is_generation(inputs):
        raise MalformedMessage(f"a generation takes a prompt and settings, got {len(inputs)} tensors")
    prompt, settings = (_read_numbers(tensor, "int64") for tensor in inputs)
    if not 1 <= len(prompt) <= PROMPT_TOKENS_MAX:
        raise MalformedMessage(f"a prompt has 1 to {PROMPT_TOKENS_MAX} tokens, not {len(prompt)}")
    if len(settings) != SETTINGS:
        raise MalformedMessage(f"settings are {SETTINGS} numbers, not {len(settings)}")
    strange = next((token for token in prompt if not 0 <= token < form.vocabulary), None)
    if strange is not None:
        raise MalformedMessage(f"token {strange} is not one of {form.vocabulary}")
    max_tokens, temperature, seed, stop = settings
    if not 1 <= max_tokens <= TOKENS_MAX:
        raise MalformedMessage(f"1 to {TOKENS_MAX} tokens are made at a time, not {max_tokens}")
    if not 0 <= temperature <= TEMPERATURE_MAX or seed < 0 or not NO_STOP <= stop < form.vocabulary:
        reason = f"temperature {temperature}, seed {seed}, stop {stop}"
        raise MalformedMessage(
            f"{reason}: temperature is 0 to {TEMPERATURE_MAX} thousandths, stop a token or {NO_STOP}"
        )
    return Generation(prompt, max_tokens, temperature, seed, stop)


def make_outputs(tokens: Sequence[int], steps: bytes) -> tuple[Tensor, ...]:
    """The outputs of a generation: its tokens, and `steps`, the digests of all its steps, packed."""
    return make_numbers("int32", tokens), Tensor("uint8", (len(steps) // DIGEST_BYTES, DIGEST_BYTES), steps)


def read_outputs(outputs: Sequence[Tensor], wanted: Generation, form: StepForm) -> tuple[tuple[int, ...], bytes]:
    """The tokens and packed step digests of outputs. MalformedMessage unless they are as many as were asked for."""
    if len(outputs) != _PARAMETERS:
        raise MalformedMessage(f"a generation gives tokens and steps, got {len(outputs)} tensors")
    tokens, steps = _read_numbers(outputs[0], "int32"), outputs[1]
    verify_tensor(steps)
    strange = next((token for token in tokens if not 0 <= token < form.vocabulary), None)
    if strange is not None:
        raise MalformedMessage(f"token {strange} is not one of {form.vocabulary}")
    if goes_on(tokens, wanted) or not is_over(tokens, wanted):
        raise MalformedMessage(f"{len(tokens)} tokens, of {wanted.max_tokens} asked for, end too early or too late")
    if (steps.dtype, steps.shape) != ("uint8", (count_steps(wanted, len(tokens)), DIGEST_BYTES)):
        raise MalformedMessage(f"{len(tokens)} tokens after a prompt of {len(wanted.prompt)}: steps {steps.shape}")
    return tokens, steps.data


def is_over(tokens: Sequence[int], wanted: Generation) -> bool:
    """Whether a generation ends with the last of these tokens."""
    return len(tokens) >= wanted.max_tokens or (bool(tokens) and tokens[-1] == wanted.stop)


def goes_on(tokens: Sequence[int], wanted: Generation) -> bool:
    """Whether there are tokens after the one that a generation ends with."""
    return len(tokens) > wanted.max_tokens or wanted.stop in tokens[:-1]


def count_steps(wanted: Generation, tokens: int) -> int:
    """The steps it takes to make so many tokens: the last one made is not read."""
    return len(wanted.prompt) + tokens - 1


def pick_token(logits: bytes, wanted: Generation, place: int) -> int:
    """The token made at step `place`, from its logits: little-endian float32, none of them NaN or infinite.

    Whole numbers only from the logits on, so that every machine picks the same. Of equal logits the first one wins.
    """
    numbers = struct.unpack(f"<{len(logits) // 4}f", logits)
    if not wanted.temperature:
        return numbers.index(max(numbers))
    weights = list(_weigh(numbers, wanted.temperature))
    drawn = hashlib.sha256(b"rolemesh/v1/draw\0" + wanted.seed.to_bytes(8, "big") + place.to_bytes(8, "big")).digest()
    left = int.from_bytes(drawn, "big") % sum(weights)
    for token, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return token
    raise AssertionError("what is drawn is less than the sum")


def begin_chain(request_id: bytes, attempt: int) -> bytes:
    """What the running hash of a streamed answer starts from."""
    return hashlib.sha256(b"rolemesh/v1/stream\0" + request_id + attempt.to_bytes(8, "big")).digest()


def extend_chain(chain: bytes, prompt: int, start: int, tokens: Sequence[int], steps: bytes) -> bytes:
    """The running hash after more tokens, from number `start` on, with the digests of the steps that made them.

    However an answer was cut into pieces, it ends the same: each token is hashed with its own steps, the first one with
    those of the whole prompt, of which there are `prompt`. MalformedMessage when there are not as many steps.
    """
    at = 0
    for number, token in enumerate(tokens, start):
        size = DIGEST_BYTES * (1 if number else prompt)
        chain = hashlib.sha256(chain + token.to_bytes(4, "big") + steps[at : at + size]).digest()
        at += size
    if at != len(steps):
        raise MalformedMessage(
            f"{len(steps)} bytes of step digests come with {len(tokens)} tokens, {at} belong to them"
        )
    return chain


def make_numbers(dtype: str, numbers: Sequence[int]) -> Tensor:
    """A list of whole numbers as a tensor, of int32 or int64."""
    return Tensor(dtype, (len(numbers),), struct.pack(f"<{len(numbers)}{_LETTERS[dtype]}", *numbers))


_LETTERS = {"int32": "i", "int64": "q"}
_SCALE_BITS = 20  # of a logit's fraction
_WEIGHT_BITS = 40
_PRECISION_BITS = 200


def _list_factors() -> tuple[int, ...]:
    """e to the power of −2^k for every bit of a distance, the lowest first; what is farther than 32 has no weight.

    The first by its series, each further one the square of the one before.
    """
    whole = 1 << _PRECISION_BITS
    factor = term = whole
    for number in range(1, 16):
        term = -term // (number << _SCALE_BITS)
        factor += term
    factors: list[int] = []
    for _ in range(_SCALE_BITS + 5):
        factors.append(factor >> (_PRECISION_BITS - _WEIGHT_BITS))
        factor = factor * factor >> _PRECISION_BITS
    return tuple(factors)


_FACTORS = _list_factors()


def _weigh(logits: Sequence[float], temperature: int) -> Iterator[int]:
    """e to the power of each logit's distance from the largest, over the temperature, in 2^-40."""
    scaled = [int(number * (1 << _SCALE_BITS)) for number in logits]
    top = max(scaled)
    for number in scaled:
        distance = (top - number) * 1_000 // temperature
        if distance >> len(_FACTORS):
            yield 0
            continue
        weight = 1 << _WEIGHT_BITS
        for bit, factor in enumerate(_FACTORS):
            if distance >> bit & 1:
                weight = weight * factor >> _WEIGHT_BITS
        yield weight


def _read_numbers(tensor: Tensor, dtype: str) -> tuple[int, ...]:
    verify_tensor(tensor)
    if tensor.dtype != dtype or len(tensor.shape) != 1:
        raise MalformedMessage(f"a list of {dtype} is wanted, got {tensor.dtype} of shape {tensor.shape}")
    return struct.unpack(f"<{tensor.shape[0]}{_LETTERS[dtype]}", tensor.data)


def _find_axis(cache: tuple[int, ...], row: tuple[int, ...]) -> tuple[int, int]:
    """The axis of a cache along which its rows lie, and how many there are; 0 and 0 unless it is one and no other."""
    axes = [axis for axis in range(1, len(cache)) if cache[:axis] + cache[axis + 1 :] == row]
    return (axes[0], cache[axes[0]]) if len(axes) == 1 and cache[0] == 0 and 0 not in cache[1:] else (0, 0)
