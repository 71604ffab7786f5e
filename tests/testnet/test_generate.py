"""The model that writes: its step with a cache computes what the whole text at once does, and well enough."""

import hashlib
import json
import lzma
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from protocol.tensor import Tensor
from roles.engine.pool import open_pool
from roles.engine.session import load_session, run_session
from testnet.models.learn.adam import count_parameters, view_parameters
from testnet.models.learn.fit import compute_bits
from testnet.models.learn.text import TOPIC_END, decode_tokens, encode_text, read_text, split_text
from testnet.models.learn.transformer import Shape, compute_logits, list_parameters
from tests.support.onnx_weights import read_graph

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "testnet" / "models"
(ENTRY,) = (
    entry for entry in json.loads((FOLDER / "models.json").read_text())["models"] if entry["kind"] == "generate"
)
MODEL = (FOLDER / ENTRY["file"]).read_bytes()
CACHE_ROWS = ENTRY["cache"]["rows"]
BITS_MAX = 1.9
WINDOWS_AT_A_TIME = 5  # as many caches as fit the inputs of one request
PATIENCE_S = 60


def read_parameters():
    """Shape and parameters of the committed model, as the trainer has them."""
    weights = read_graph(MODEL).weights
    layers = sum(name.startswith("qkv.") for name in weights)
    vocabulary, width = weights["embedding"].shape
    context, biases = weights["distances"].shape
    shape = Shape(vocabulary, context, layers, width, biases // layers)
    flat = np.empty(count_parameters(list_parameters(shape)), np.float32)
    for name, view in view_parameters(flat, list_parameters(shape)).items():
        kind, _, layer = name.partition(".")
        if kind == "distances":
            view[...] = weights["distances"].T.reshape(layers, shape.heads, context)[int(layer)]
        else:
            view[...] = weights[name]
    return shape, flat


def read_heldout():
    return np.array(encode_text(split_text(read_text(FOLDER))[1]))


def make_tensor(array):
    return Tensor(array.dtype.name, array.shape, array.tobytes())


class Reader:
    """Reads texts side by side, one token of each at a time, with the cache that the manifest describes."""

    def __init__(self, texts, unwritten=0.0):
        keys = ENTRY["inputs"][2]["shape"]
        self.caches = [np.full((texts, *keys[1:]), unwritten, np.float32) for _ in range(2)]
        self.position = 0

    def inputs(self, tokens):
        position = np.full(len(tokens), self.position, np.int64)
        return tuple(map(make_tensor, (tokens.astype(np.int64), position, *self.caches)))

    def take(self, outputs):
        logits, *rows = (np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape) for tensor in outputs)
        for cache, row in zip(self.caches, rows, strict=True):
            cache[:, :, :, self.position % CACHE_ROWS] = row
        self.position += 1
        return logits

    def read(self, session, tokens):
        return self.take(run_session(session, self.inputs(tokens))[0])


def read_texts(session, texts, unwritten=0.0):
    """(texts, length) tokens → (texts, length, vocabulary) logits, step by step."""
    reader = Reader(len(texts), unwritten)
    return np.stack([reader.read(session, tokens) for tokens in texts.T], axis=1)


def measure_error(logits, expected):
    """The largest difference in a row of logits, as a share of the row's largest number."""
    return (np.abs(logits - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).max()


@pytest.mark.parametrize("optimise", ["all", "disable"])
def test_steps_with_a_cache_give_the_logits_of_the_whole_text_at_once(optimise):
    shape, flat = read_parameters()
    texts = read_heldout()[: 2 * shape.context].reshape(2, -1)

    # What stands in rows not written yet must not matter.
    logits = read_texts(load_session(MODEL, optimise), texts, unwritten=1e6)

    assert measure_error(logits, compute_logits(flat, shape, texts)) < 2e-5


def test_a_text_longer_than_the_context_is_read_through_a_window():
    shape, flat = read_parameters()
    texts = read_heldout()[None, : 2 * shape.context + 50]

    logits = read_texts(load_session(MODEL), texts)

    assert measure_error(logits, compute_logits(flat, shape, texts)) < 2e-5


def test_the_model_foretells_held_out_text():
    # With one thread, which numpy is told before it starts: on busy cores two wait for each other for half a minute.
    code = "from tests.testnet.test_generate import *; shape, flat = read_parameters(); "
    code += "print(compute_bits(flat, shape, read_heldout()))"
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}

    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)

    bits = float(told.stdout)
    assert bits == pytest.approx(ENTRY["heldout"]["score"], abs=1e-3)
    assert bits <= BITS_MAX
    assert len(read_heldout()) == ENTRY["heldout"]["characters"]


def test_onnxruntime_foretells_a_slice_of_held_out_text_as_well_as_numpy_does():
    shape, flat = read_parameters()
    heldout = read_heldout()
    stride = len(heldout) // WINDOWS_AT_A_TIME
    windows = np.stack(
        [heldout[start : start + shape.context + 1] for start in range(0, len(heldout) - stride, stride)]
    )

    logits = read_texts(load_session(MODEL), windows[:, :-1]).astype(np.float64)

    likelihoods = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    chosen = np.take_along_axis(likelihoods, windows[:, 1:, None], axis=-1)
    bits = -chosen.mean() / math.log(2)
    assert bits == pytest.approx(np.mean([compute_bits(flat, shape, window) for window in windows]), abs=1e-3)
    assert bits <= BITS_MAX


def test_the_sample_of_the_manifest_is_what_the_likeliest_characters_make():
    sample = ENTRY["sample"]
    tokens = np.array(encode_text(sample["prompt"] + sample["text"]))

    logits = read_texts(load_session(MODEL), tokens[None, :-1])[0, len(sample["prompt"]) - 1 :]

    assert decode_tokens(logits.argmax(axis=1)) == sample["text"]
    assert len(sample["text"]) == 200
    assert sample["text"] in (FOLDER / "MODELS.md").read_text()


def test_a_worker_process_takes_the_same_steps():
    texts = read_heldout()[None, :20]
    digest = hashlib.sha256(MODEL).digest()
    expected = read_texts(load_session(MODEL), texts)

    async def load_blob(wanted):
        return {digest: MODEL}[wanted]

    async def read_all():
        reader = Reader(1)
        with trio.fail_after(PATIENCE_S):
            async with open_pool(load_blob) as pool:
                for tokens in texts.T:
                    outputs, _ = await pool.compute(digest, reader.inputs(tokens), PATIENCE_S)
                    logits.append(reader.take(outputs))

    logits = []
    trio.run(read_all)

    assert np.array_equal(np.stack(logits, axis=1), expected)


def test_the_manifest_has_what_turns_text_into_tokens_and_back():
    vocabulary = ENTRY["vocabulary"]
    text = "def f(x):\n    return x ** 2  # ~100 %\n"

    tokens = [vocabulary.index(character) for character in text]

    assert tokens == encode_text(text)
    assert decode_tokens(tokens) == "".join(vocabulary[token] for token in tokens) == text
    assert len(vocabulary) == len(set(vocabulary)) == ENTRY["outputs"][0]["shape"][1]
    assert ENTRY["inputs"][2]["shape"][ENTRY["cache"]["axis"]] == CACHE_ROWS == ENTRY["context"] - 1
    with pytest.raises(ValueError, match="é"):
        encode_text("café")


def test_no_paragraph_held_out_was_trained_on():
    text = read_text(FOLDER)
    training, heldout = split_text(text)

    def list_paragraphs(part):
        return {" ".join(each.split()) for each in part.replace(TOPIC_END, "\n\n").split("\n\n")}

    assert not list_paragraphs(training) & list_paragraphs(heldout)
    assert len(training) + len(heldout) + len(TOPIC_END) == len(text)
    assert 0.05 < len(heldout) / len(text) < 0.15


def test_the_text_is_the_one_the_manifest_names():
    data = (FOLDER / ENTRY["heldout"]["file"]).read_bytes()

    assert hashlib.sha256(data).hexdigest() == ENTRY["heldout"]["sha256"]
    assert hashlib.sha256(lzma.decompress(data)).hexdigest() == ENTRY["heldout"]["text_sha256"]
