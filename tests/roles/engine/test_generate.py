"""Generation: what comes out is what the graph gives step by step, whatever runs it, and it ends when it should."""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trio

from protocol.generation import Generation, make_inputs, read_form, read_outputs
from protocol.tensor import DIGEST_BYTES, Tensor, compute_tensors_digest
from roles.engine.errors import BadInput, ComputeTimedOut, Withdrawn
from roles.engine.generate import OPTIMISE, Writer, generate
from roles.engine.inline import InlineEngine
from roles.engine.pool import open_pool
from roles.engine.session import load_session, run_session
from roles.engine.stepped import Stepped

FOLDER = Path(__file__).parents[3] / "testnet" / "models"
(ENTRY,) = (item for item in json.loads((FOLDER / "models.json").read_text())["models"] if item["name"] == "pydoc")
MODEL = (FOLDER / ENTRY["file"]).read_bytes()
DIGEST = hashlib.sha256(MODEL).digest()
PATIENCE_S = 60


def encode(text):
    return tuple(map(ENTRY["vocabulary"].index, text))


def decode(tokens):
    return "".join(ENTRY["vocabulary"][token] for token in tokens)


GREEDY = Generation(encode("The "), 40)
DRAWN = Generation(encode("class "), 30, temperature=800, seed=7)


@pytest.fixture(scope="module")
def session():
    return load_session(MODEL, OPTIMISE)


async def load_blob(wanted):
    return {DIGEST: MODEL}[wanted]


def read(outputs, wanted, session):
    return read_outputs(outputs, wanted, read_form(session.inputs, session.outputs))


def test_greedy_text_is_the_sample_of_the_manifest(session):
    outputs, profile = generate(session, make_inputs(GREEDY))

    tokens, steps = read(outputs, GREEDY, session)
    assert decode(tokens) == ENTRY["sample"]["text"][:40]
    assert len(steps) == DIGEST_BYTES * (4 + 40 - 1)
    assert "opt=disable" in profile


def test_each_step_digest_is_of_all_that_a_bare_step_of_the_graph_gives(session):
    wanted = Generation(encode("def f"), 140)  # beyond the 127 rows of the caches
    outputs, _ = generate(session, make_inputs(wanted))
    tokens, steps = read(outputs, wanted, session)
    caches = [np.zeros((1, 4, 3, 127, 32), np.float32) for _ in range(2)]

    for place, token in enumerate((*wanted.prompt, *tokens[:-1])):
        numbers = (np.array([token], np.int64), np.array([place], np.int64))
        inputs = tuple(Tensor(item.dtype.name, item.shape, item.tobytes()) for item in (*numbers, *caches))
        given, _ = run_session(session, inputs)
        for cache, row in zip(caches, given[1:], strict=True):
            cache[:, :, :, place % 127] = np.frombuffer(row.data, np.float32).reshape(row.shape)
        assert compute_tensors_digest(given) == steps[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]


def test_a_seed_draws_the_same_text_each_time_and_another_seed_another(session):
    texts = {
        seed: [generate(session, make_inputs(Generation(DRAWN.prompt, 30, 800, seed)))[0] for _ in range(2)]
        for seed in (7, 8)
    }

    assert texts[7][0] == texts[7][1] != texts[8][0] == texts[8][1]


def test_a_stop_token_ends_the_text_and_is_part_of_it(session):
    wanted = Generation(encode("The "), 200, stop=encode("(")[0])

    tokens, _ = read(generate(session, make_inputs(wanted))[0], wanted, session)

    assert decode(tokens).endswith("(")
    assert decode(tokens).count("(") == 1


def test_forced_tokens_are_read_whatever_would_have_been_picked(session):
    tokens, steps = read(generate(session, make_inputs(GREEDY))[0], GREEDY, session)
    forced = (*tokens[:9], (tokens[9] + 1) % 96, *tokens[10:])
    writer = Writer(session, make_inputs(GREEDY), forced)

    digests = []
    while not writer.is_over():
        digests.append(writer.step())

    own = [steps[at : at + DIGEST_BYTES] for at in range(0, len(steps), DIGEST_BYTES)]
    assert tuple(writer.picked[:10]) == tokens[:10]
    assert len(digests) == len(own)
    assert next(place for place, digest in enumerate(digests) if digest != own[place]) == 4 + 9


@pytest.mark.parametrize("wanted", [GREEDY, DRAWN])
def test_worker_processes_make_the_bytes_that_this_process_makes(session, wanted):
    parts: list[Stepped] = []

    async def ask():
        with trio.fail_after(PATIENCE_S):
            async with open_pool(load_blob) as pool:
                return await pool.compute(DIGEST, make_inputs(wanted), PATIENCE_S, "one", parts.append)

    outputs, profile = trio.run(ask)

    said: list[Stepped] = []
    engine = InlineEngine({DIGEST: MODEL}.__getitem__)
    assert (outputs, profile) == engine.compute(DIGEST, make_inputs(wanted), said.append)
    assert tuple(token for part in parts for token in part.tokens) == read(outputs, wanted, session)[0]
    assert b"".join(part.steps for part in parts) == b"".join(part.steps for part in said) == outputs[1].data
    assert [part.is_over for part in parts] == [0] * (len(parts) - 1) + [1]


def test_a_generation_called_off_ends_within_a_few_steps_and_its_process_serves_on(session):
    async def ask():
        with trio.fail_after(PATIENCE_S):
            async with open_pool(load_blob) as pool:
                await pool.prepare(DIGEST, PATIENCE_S)
                (pid,) = pool.pids
                parts = []

                def hear(part):
                    parts.append(part)
                    assert pool.withdraw("one")

                with pytest.raises(Withdrawn):
                    await pool.compute(DIGEST, make_inputs(Generation(GREEDY.prompt, 500)), PATIENCE_S, "one", hear)
                assert len(parts) == 1
                assert not pool.withdraw("one")
                outputs, _ = await pool.compute(DIGEST, make_inputs(GREEDY), PATIENCE_S)
                assert pool.pids == (pid,)
                return outputs

    assert trio.run(ask) == generate(session, make_inputs(GREEDY))[0]


def test_a_deadline_between_two_steps_ends_a_generation_and_no_process():
    async def ask():
        with trio.fail_after(PATIENCE_S):
            async with open_pool(load_blob) as pool:
                await pool.prepare(DIGEST, PATIENCE_S)
                before = pool.pids
                with pytest.raises(ComputeTimedOut, match="running"):
                    await pool.compute(DIGEST, make_inputs(Generation(GREEDY.prompt, 500)), 0.01)
                assert pool.pids == before

    trio.run(ask)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (Generation((), 5), "1 to 512 tokens"),
        (Generation((96,), 5), "token 96"),
        (Generation((1,) * 513, 5), "1 to 512 tokens"),
        (Generation((1,), 0), "not 0"),
        (Generation((1,), 513), "not 513"),
        (Generation((1,), 5, temperature=10_001), "temperature 10001"),
        (Generation((1,), 5, seed=-1), "seed -1"),
        (Generation((1,), 5, stop=96), "stop 96"),
    ],
)
def test_what_no_model_could_do_is_refused_with_its_numbers(session, wanted, reason):
    with pytest.raises(BadInput, match=reason):
        generate(session, make_inputs(wanted))


def test_two_lists_for_a_model_that_takes_a_step_are_no_generation_unless_they_are_settings(session):
    prompt, _ = make_inputs(GREEDY)

    with pytest.raises(BadInput, match="settings are 4 numbers"):
        generate(session, (prompt, Tensor("int64", (3,), struct.pack("<3q", 1, 0, 0))))
