"""The generative model that ships, and what to ask it for."""

import json
from functools import cache
from pathlib import Path

from protocol.generation import Generation, make_inputs
from protocol.tensor import Tensor

FOLDER = Path(__file__).parents[2] / "testnet" / "models"
(ENTRY,) = (item for item in json.loads((FOLDER / "models.json").read_text())["models"] if item["name"] == "pydoc")
DIGEST = bytes.fromhex(ENTRY["sha256"])


@cache
def load_model() -> bytes:
    return (FOLDER / ENTRY["file"]).read_bytes()


def encode(text: str) -> tuple[int, ...]:
    return tuple(map(ENTRY["vocabulary"].index, text))


def decode(tokens) -> str:
    return "".join(ENTRY["vocabulary"][token] for token in tokens)


def ask(text: str = "The ", max_tokens: int = 40, **settings: int) -> tuple[Tensor, ...]:
    """The inputs of a request."""
    return make_inputs(Generation(encode(text), max_tokens, **settings))
