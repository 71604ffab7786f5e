"""Generations in dispute: the step that was altered is found, then the one part of it, and no other part is blamed."""

import struct
from dataclasses import replace

import pytest
import trio

from protocol.generation import make_outputs, read_form
from protocol.proofs.steps import (
    ASSEMBLY,
    ForceSteps,
    Generated,
    RunPart,
    TraceStep,
    compute_made,
    find_step,
    find_step_misfit,
    read_generated,
    verify_step_binding,
)
from protocol.proofs.trace import Exhibit, Given, Judgement, find_fault, judge_fit, unpack_trace
from roles.engine.inline import InlineEngine
from roles.engine.pool import open_pool
from testnet.genesis import load_models
from tests.support.generations import DIGEST, ask, load_model

(PYDOC,) = load_models(("pydoc",))
FORM = read_form(PYDOC.inputs, PYDOC.outputs)
ENGINE = InlineEngine({DIGEST: load_model()}.__getitem__)
PROMPT = 4


@pytest.fixture(scope="module")
def honest():
    inputs = ask("The ", 12)
    return Generated(inputs, ENGINE.compute(DIGEST, inputs)[0])


@pytest.fixture(scope="module")
def drawn():
    inputs = ask("The ", 12, temperature=900, seed=3)
    return Generated(inputs, ENGINE.compute(DIGEST, inputs)[0])


def alter_token(generated, place):
    """One token is another one, and every step says what it gave."""
    numbers = list(struct.unpack("<12i", generated.outputs[0].data))
    numbers[place] = (numbers[place] + 1) % 96
    forced = replace(generated, outputs=make_outputs(numbers, generated.outputs[1].data))
    steps = ENGINE.inspect(DIGEST, ForceSteps(forced)).steps
    return replace(generated, outputs=make_outputs(numbers, steps))


def alter_step(generated, step):
    """One logit of one step is another one, so that its digest is."""
    data = bytearray(generated.outputs[1].data)
    data[32 * step] ^= 1
    return replace(generated, outputs=(generated.outputs[0], replace(generated.outputs[1], data=bytes(data))))


def judge_part(generated, trace, step, operator):
    """What validators say of one part of a step, by what its worker shows honestly of what that part took."""
    said = read_generated(generated, FORM)
    exhibit = ENGINE.inspect(DIGEST, TraceStep(generated, step, operator)).exhibit
    run = ENGINE.inspect(DIGEST, RunPart(generated, step, operator, exhibit))
    return judge_fit(trace, operator, find_step_misfit(said, step, trace, operator, exhibit), run)


def trace_own(generated, step):
    return unpack_trace(ENGINE.inspect(DIGEST, TraceStep(generated, step, 0)).trace)


def test_an_honest_generation_has_no_step_that_differs(honest):
    forced = ENGINE.inspect(DIGEST, ForceSteps(honest))

    assert find_step(read_generated(honest, FORM), forced) is None
    assert forced.steps == honest.outputs[1].data


@pytest.mark.parametrize("place", [0, 5, 11])
def test_an_altered_token_is_found_at_the_step_that_made_it_and_its_picking_is_wrong(honest, place):
    altered = alter_token(honest, place)
    said = read_generated(altered, FORM)

    step = find_step(said, ENGINE.inspect(DIGEST, ForceSteps(altered)))
    assert step == PROMPT - 1 + place
    own = trace_own(altered, step)
    theirs = (*own[:-1], compute_made(said.get_made(step)))
    verify_step_binding(theirs, said, step)
    operator = find_fault(own, theirs)

    assert operator == len(own) - 1
    assert judge_part(altered, theirs, step, operator) is Judgement.WRONG


@pytest.mark.parametrize("step", [0, 2, 3, 9, 14])
def test_an_altered_step_is_found_and_its_outputs_are_wrong(honest, step):
    altered = alter_step(honest, step)
    said = read_generated(altered, FORM)

    assert find_step(said, ENGINE.inspect(DIGEST, ForceSteps(altered))) == step
    own = trace_own(altered, step)
    ends = 1 if step < PROMPT - 1 else 2
    theirs = (*own[:-ends], said.steps[step], *own[len(own) - ends + 1 :])
    verify_step_binding(theirs, said, step)
    operator = find_fault(own, theirs)

    assert operator == len(own) - ends
    assert judge_part(altered, theirs, step, operator) is Judgement.WRONG


def test_text_of_another_seed_or_temperature_is_found_where_it_first_parts(honest, drawn):
    for other in (
        Generated(honest.inputs, drawn.outputs),
        Generated(drawn.inputs, honest.outputs),
        Generated(ask("The ", 12, temperature=900, seed=4), drawn.outputs),
    ):
        said = read_generated(other, FORM)
        forced = ENGINE.inspect(DIGEST, ForceSteps(other))
        step = find_step(said, forced)
        assert step is not None
        own = trace_own(other, step)
        theirs = (*own[:-1], compute_made(said.get_made(step)))
        assert find_fault(own, theirs) == len(own) - 1
        assert judge_part(other, theirs, step, len(own) - 1) is Judgement.WRONG


@pytest.mark.parametrize("step", [0, 3, 10])
def test_an_honest_worker_is_found_right_whatever_part_of_a_step_is_named(drawn, step):
    trace = trace_own(drawn, step)
    last = len(trace) - 1

    for operator in (ASSEMBLY, 2, 3, last // 2, last - 2, last - 1, last):
        assert judge_part(drawn, trace, step, operator) is Judgement.SOUND, operator


@pytest.mark.full
def test_a_fault_at_every_operator_of_one_step_is_found_at_that_operator(drawn):
    """Every part of a step in turn gives something else: exactly that part is found, and found wrong."""
    step = 8
    trace = trace_own(drawn, step)
    said = read_generated(drawn, FORM)
    for operator in range(1, len(trace)):
        theirs = (*trace[:operator], bytes(32), *trace[operator + 1 :])
        assert find_fault(trace, theirs) == operator
        exhibit = ENGINE.inspect(DIGEST, TraceStep(drawn, step, operator)).exhibit
        run = ENGINE.inspect(DIGEST, RunPart(drawn, step, operator, exhibit))
        assert run.digest == trace[operator], operator
        assert run.operators == len(trace) - 1
        misfit = find_step_misfit(said, step, theirs, operator, exhibit)
        assert judge_fit(theirs, operator, misfit, run) is Judgement.WRONG
        assert (
            judge_fit(trace, operator, find_step_misfit(said, step, trace, operator, exhibit), run) is Judgement.SOUND
        )


def test_the_inputs_of_a_step_beyond_the_caches_are_put_together_from_the_steps_it_looks_at():
    inputs = ask("def f", 140)
    generated = Generated(inputs, ENGINE.compute(DIGEST, inputs)[0])
    step = 139
    trace = trace_own(generated, step)

    exhibit = ENGINE.inspect(DIGEST, TraceStep(generated, step, ASSEMBLY)).exhibit

    assert [item.operator for item in exhibit.items] == list(range(139 - 127, 139))
    assert judge_part(generated, trace, step, ASSEMBLY) is Judgement.SOUND


@pytest.mark.parametrize(
    "exhibit",
    [
        Exhibit(()),
        Exhibit((Given(0, ask("x", 1)),)),
        Exhibit((Given(7, ask("x", 1)), Given(8, ask("x", 1)))),
    ],
)
def test_an_exhibit_no_honest_worker_shows_has_no_digest_and_a_reason(honest, exhibit):
    last = len(trace_own(honest, 5)) - 1
    for operator in (ASSEMBLY, last, last + 1):
        run = ENGINE.inspect(DIGEST, RunPart(honest, 5, operator, exhibit))
        assert run.digest == b""
        assert run.reason
        assert run.operators == last


def test_a_worker_process_says_the_same_of_steps(honest):
    async def load_blob(wanted):
        return {DIGEST: load_model()}[wanted]

    async def inspect():
        with trio.fail_after(60):
            async with open_pool(load_blob) as pool:
                return [await pool.inspect(DIGEST, question, 30) for question in questions]

    exhibit = ENGINE.inspect(DIGEST, TraceStep(honest, 6, ASSEMBLY)).exhibit
    questions = [ForceSteps(honest), TraceStep(honest, 6, ASSEMBLY), RunPart(honest, 6, ASSEMBLY, exhibit)]

    assert trio.run(inspect) == [ENGINE.inspect(DIGEST, question) for question in questions]
