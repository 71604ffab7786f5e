"""Whatever comes in, nothing but our own errors comes out: golden bytes, damaged at random, and noise."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from protocol.codec import decode, encode
from protocol.envelope import Envelope, decode_envelope, open_message
from protocol.errors import MalformedMessage, RemoteError
from protocol.registry import get_message
from protocol.tensor import decode_tensors, verify_tensor
from tests.make_vectors import CHAIN, build_vectors
from tests.support.from_types import find_all_types, spell
from tests.support.mutate import make_noise, mutate

INPUTS = 30_000
INPUTS_PURE_PYTHON = 1_500
SIZE_MAX = 3 * 1024 * 1024


def feed_decoders(inputs: int, seed: int) -> tuple[int, int]:
    """Throw `inputs` damaged inputs at every kind of decoder; returns how many were accepted and refused."""
    rng = Random(seed)
    corpus, envelopes = _load_corpus()
    spellings = tuple(data for _, data in corpus) + envelopes
    accepted = refused = 0
    for number in range(inputs):
        cls, data = rng.choice(corpus)
        damaged = make_noise(rng) if number % 10 == 0 else mutate(data, spellings, rng)
        wire = mutate(rng.choice(envelopes), spellings, rng)
        for read in (_read_value(cls, damaged), _read_envelope(wire), _read_tensors(damaged)):
            try:
                read()
                accepted += 1
            except RemoteError:
                refused += 1
            except Exception as error:
                error.add_note(f"seed {seed}, input {number}: {cls.__name__} {damaged.hex()} / envelope {wire.hex()}")
                raise
    return accepted, refused


def _load_corpus() -> tuple[tuple[tuple[type, bytes], ...], tuple[bytes, ...]]:
    vectors = build_vectors()
    messages, objects = vectors["messages.json"], vectors["objects.json"]
    types = {spell(cls): cls for cls in find_all_types()}
    values = [(get_message(int(vector["kind"], 16)), bytes.fromhex(vector["body"])) for vector in messages]
    values += [(types[vector["type"]], bytes.fromhex(vector["bytes"])) for vector in objects]
    return tuple(values), tuple(bytes.fromhex(vector["envelope"]) for vector in messages)


def _read_value(cls: type, data: bytes) -> Callable[[], None]:
    def read() -> None:
        value: Any = decode(cls, data)
        assert encode(value) == data

    return read


def _read_envelope(wire: bytes) -> Callable[[], None]:
    def read() -> None:
        assert encode(decode_envelope(wire, CHAIN, SIZE_MAX)) == wire
        envelope, message = open_message(wire, CHAIN, SIZE_MAX)
        assert encode(message) == envelope.body

    return read


def _read_tensors(data: bytes) -> Callable[[], None]:
    def read() -> None:
        for tensor in decode_tensors(data):
            verify_tensor(tensor)

    return read


def test_only_our_own_errors_leave_a_decoder() -> None:
    accepted, refused = feed_decoders(INPUTS, seed=1)

    assert refused > INPUTS
    assert accepted > 0  # a swap for other golden bytes of the same type is no damage: the decoders were reached


def test_only_our_own_errors_leave_a_decoder_without_the_c_extension() -> None:
    root = Path(__file__).parents[2]
    code = (
        "import msgpack.fallback; from tests.protocol.test_hostile_bytes import *;"
        "assert msgpack.Unpacker is msgpack.fallback.Unpacker;"
        "print(feed_decoders(INPUTS_PURE_PYTHON, seed=2))"
    )
    env = {**os.environ, "MSGPACK_PUREPYTHON": "1", "PYTHONPATH": str(root)}

    run = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, timeout=100)

    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == str(feed_decoders(INPUTS_PURE_PYTHON, seed=2))  # both builds decide alike


@pytest.mark.parametrize("piece", [b"\x80", b"\x81\x00\x00", b"\xc7\x00\x05"])
def test_a_flood_of_small_values_is_refused_at_its_first_map(piece: bytes) -> None:
    wide = b"\x99" + b"".join(b"\xdc\x04\x00" + piece * 1024 for _ in range(9))

    with pytest.raises(MalformedMessage, match=r"holds|limits"):
        decode(get_message(0x0222), wide)


@pytest.mark.parametrize("depth", [20, 500, 1023, 5000])
def test_arrays_within_arrays_are_refused_at_any_depth(depth: int) -> None:
    for cls in (Envelope, get_message(0x0222)):
        with pytest.raises(MalformedMessage):
            decode(cls, b"\x91" * depth + b"\x90")
