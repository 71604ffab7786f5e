"""What simulated nodes are given from outside: models, digits to recognise, a price to watch."""

import json
import random
from functools import cache
from importlib import resources
from typing import Any

from protocol.ledger.genesis import ModelRecord
from protocol.tensor import Tensor
from roles.engine.inline import InlineEngine
from testnet.genesis import MODELS, load_models

FEED_URL = "http://feed.invalid/latest"
FEED_STEP_MS = 1_000
FEED_STEPS_MAX = 1_000_000


@cache
def load_model_bytes() -> dict[bytes, bytes]:
    """The models that ship with rolemesh, by digest."""
    folder = resources.files("testnet").joinpath("models")
    files = json.loads(folder.joinpath("models.json").read_text(encoding="utf-8"))["models"]
    return {bytes.fromhex(fields["sha256"]): folder.joinpath(fields["file"]).read_bytes() for fields in files}


@cache
def get_engine() -> InlineEngine:
    """Runs the models that ship with rolemesh. One for all simulations: a loaded model has no memory of its runs."""
    return InlineEngine(load_model_bytes().__getitem__)


@cache
def load_model_records(names: tuple[str, ...] = MODELS) -> tuple[ModelRecord, ...]:
    return load_models(names)


@cache
def _load_heldout() -> Any:
    import numpy as np

    with resources.files("testnet").joinpath("models/digits-heldout.npz").open("rb") as file:
        return np.load(file, allow_pickle=False)["inputs"]


def count_heldout() -> int:
    """How many held-out digits there are."""
    return len(_load_heldout())


def get_heldout_inputs(row: int, model: ModelRecord) -> tuple[Tensor, ...]:
    """Held-out digit number `row` as the model takes it: one tensor of shape (1, 64)."""
    import numpy as np

    dtype = model.inputs[0].dtype
    pixels = _load_heldout()[row].astype(np.dtype(dtype).newbyteorder("<"))
    return (Tensor(dtype, (1, pixels.size), pixels.tobytes()),)


def compute_label(model: ModelRecord, outputs: tuple[Tensor, ...]) -> str:
    """The label of the first row: its largest number. The number's place when the model names no labels."""
    import numpy as np

    values = np.frombuffer(outputs[0].data, dtype=np.dtype(outputs[0].dtype).newbyteorder("<"))
    place = int(values.reshape(outputs[0].shape)[0].argmax())
    return model.labels[place] if model.labels else str(place)


class PriceWalk:
    """A made-up price that moves once a second: the outside world of a simulation's oracles."""

    def __init__(self, rng: random.Random, start_ms: int) -> None:
        self._rng = rng
        self._start_ms = start_ms
        self._cents = [100_00]

    def fetch_url(self, url: str, now_ms: int) -> bytes | None:
        """The document at FEED_URL; None for any other."""
        if url != FEED_URL:
            return None
        step = min((now_ms - self._start_ms) // FEED_STEP_MS, FEED_STEPS_MAX)
        while len(self._cents) <= step:
            self._cents.append(max(1, self._cents[-1] + self._rng.randrange(-150, 151)))
        cents = self._cents[step]
        return f'{{"value": {cents // 100}.{cents % 100:02}, "index": {step}}}'.encode()
