"""What a request for text is, which models can serve it, and how a token is picked: by whole numbers alone."""

import math
import struct
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MalformedMessage
from protocol.generation import (
    Generation,
    StepForm,
    count_steps,
    is_over,
    make_inputs,
    make_outputs,
    pick_token,
    read_form,
    read_inputs,
    read_outputs,
)
from protocol.ledger.model_records import TensorSpec
from protocol.tensor import Tensor

FORM = StepForm(vocabulary=96, axis=3, rows=127)
TOKEN = TensorSpec("int64", (0,))
CACHE = TensorSpec("float32", (0, 4, 3, 127, 32))
ROW = TensorSpec("float32", (0, 4, 3, 32))
LOGITS = TensorSpec("float32", (0, 96))
INPUTS, OUTPUTS = (TOKEN, TOKEN, CACHE, CACHE), (LOGITS, ROW, ROW)
WANTED = Generation((1, 2, 3), 4)
tokens = st.integers(0, 95)


def pack(*logits):
    return struct.pack(f"<{len(logits)}f", *logits)


def test_a_model_that_makes_text_is_known_by_what_it_takes_and_gives():
    assert read_form(INPUTS, OUTPUTS) == FORM


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((TOKEN,), (LOGITS,)),
        ((TOKEN, TOKEN), (LOGITS,)),
        (INPUTS, OUTPUTS[:2]),
        ((replace(TOKEN, dtype="int32"), *INPUTS[1:]), OUTPUTS),
        (INPUTS, (replace(LOGITS, dtype="float64"), ROW, ROW)),
        (INPUTS, (TensorSpec("float32", (1, 96)), ROW, ROW)),
        (INPUTS, (LOGITS, ROW, TensorSpec("float16", ROW.shape))),
        (INPUTS, (LOGITS, ROW, TensorSpec("float32", (0, 4, 127, 32)))),
        ((TOKEN, TOKEN, TensorSpec("float32", (0, 4, 4))), (LOGITS, TensorSpec("float32", (0, 4)))),
    ],
)
def test_other_models_make_no_text(inputs, outputs):
    assert read_form(inputs, outputs) is None


@given(
    prompt=st.lists(tokens, min_size=1, max_size=512).map(tuple),
    max_tokens=st.integers(1, 512),
    temperature=st.integers(0, 10_000),
    seed=st.integers(0, 2**63 - 1),
    stop=st.integers(-1, 95),
)
def test_what_is_asked_is_read_back(prompt, max_tokens, temperature, seed, stop):
    wanted = Generation(prompt, max_tokens, temperature, seed, stop)

    assert read_inputs(make_inputs(wanted), FORM) == wanted
    assert wanted.units == len(prompt) + max_tokens


@given(made=st.lists(tokens, min_size=1, max_size=20), stop=st.integers(-1, 95))
def test_an_answer_is_taken_when_it_ends_where_it_has_to_and_not_before_or_after(made, stop):
    wanted = Generation((1, 2, 3), 10, stop=stop)
    steps = bytes(32 * count_steps(wanted, len(made)))
    outputs = make_outputs(made, steps)

    # Read one by one, it ends at the first place where it may.
    ends = [at for at in range(1, len(made) + 1) if is_over(made[:at], wanted)]
    if ends[:1] == [len(made)]:
        assert read_outputs(outputs, wanted, FORM) == (tuple(made), steps)
    else:
        with pytest.raises(MalformedMessage, match="too early or too late"):
            read_outputs(outputs, wanted, FORM)


@pytest.mark.parametrize(
    "outputs",
    [
        (),
        make_outputs((1, 2, 3, 4), bytes(32 * 5)),
        make_outputs((1, 2, 3, 96), bytes(32 * 6)),
        (make_inputs(WANTED)[0], make_outputs((1,), bytes(32 * 6))[1]),
        (make_outputs((1, 2, 3, 4), b"")[0], Tensor("uint8", (32, 6), bytes(192))),
        (make_outputs((1, 2, 3, 4), b"")[0], Tensor("int8", (6, 32), bytes(192))),
    ],
)
def test_outputs_of_other_types_or_numbers_are_none(outputs):
    with pytest.raises(MalformedMessage):
        read_outputs(outputs, WANTED, FORM)


def test_without_chance_the_largest_logit_wins_and_of_equal_ones_the_first():
    assert pick_token(pack(0.5, 2.0, -1.0, 2.0), WANTED, 0) == 1
    assert pick_token(pack(-3.0, -2.0), replace(WANTED, seed=9), 5) == 1


def test_what_is_drawn_follows_from_seed_and_place_and_was_drawn_before():
    logits = pack(*(math.sin(number) for number in range(96)))
    drawn = [pick_token(logits, Generation((1,), 1, 1_000, seed=7), place) for place in range(12)]

    assert drawn == [pick_token(logits, Generation((1,), 1, 1_000, seed=7), place) for place in range(12)]
    assert drawn == [3, 20, 7, 7, 15, 23, 93, 25, 14, 22, 13, 36]


def test_tokens_are_drawn_as_often_as_their_logits_say():
    logits = pack(0.0, math.log(2), math.log(5), -50.0)
    counts = Counter(pick_token(logits, Generation((1,), 1, 1_000), place) for place in range(8_000))

    assert [counts[token] / 8_000 for token in range(3)] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)
    assert counts[3] == 0


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=96), st.integers(1, 10_000), st.integers(0, 99))
def test_something_is_always_picked(logits, temperature, place):
    assert 0 <= pick_token(pack(*logits), Generation((1,), 1, temperature), place) < len(logits)


def test_a_low_temperature_leaves_nothing_to_chance():
    logits = pack(1.0, 1.5, 1.4)

    assert {pick_token(logits, Generation((1,), 1, temperature=1), place) for place in range(50)} == {1}
