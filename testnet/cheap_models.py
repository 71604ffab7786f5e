"""Cheaper versions of the models that ship: what a worker would run that saves memory or time, and charges in full."""

from collections.abc import Collection, Mapping
from functools import cache

from protocol.content import compute_digest
from roles.engine.inline import InlineEngine
from roles.engine.rounding import round_weights
from testnet.genesis import read_manifest
from testnet.sim_inputs import load_model_bytes


@cache
def make_cheap(rounding: str, models: tuple[str, ...]) -> Mapping[bytes, bytes]:
    """By the digest of each model of these names: the model with its weights rounded. LocalError for another rounding.

    ValueError where there is nothing to be rounded.
    """
    cheap = {}
    for fields in read_manifest():
        digest = bytes.fromhex(fields["sha256"])
        if fields["name"] in models:
            cheap[digest] = round_weights(load_model_bytes()[digest], rounding)
            if compute_digest(cheap[digest]) == digest:
                raise ValueError(f"{rounding} changes nothing in {fields['name']}")
    return cheap


def name_cheap(rounding: str, models: Collection[str]) -> dict[str, str]:
    """The digest, in hex, of what stands in for each model: as `testnet.cheats.Degrading` is told."""
    cheap = make_cheap(rounding, tuple(models))
    return {digest.hex(): compute_digest(data).hex() for digest, data in cheap.items()}


@cache
def get_cheap_engine(rounding: str, models: tuple[str, ...]) -> InlineEngine:
    """Runs the models that ship and those that stand in for them."""
    cheap = {compute_digest(data): data for data in make_cheap(rounding, models).values()}
    return InlineEngine({**load_model_bytes(), **cheap}.__getitem__)
