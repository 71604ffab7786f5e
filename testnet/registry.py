"""Find models: on a ledger by what people call them, and their bytes in the stores of a network on this machine."""

from collections.abc import Iterator
from pathlib import Path

from protocol.content import format_cid
from protocol.errors import MissingBlob
from protocol.ledger.records import ModelRecord
from protocol.ledger.state import State
from roles.blobs import read_blob

BLOBS_NAME = "blobs"


def find_model(state: State, wanted: str) -> ModelRecord | None:
    """By name (the newest version that is served, or else the newest), name@version, CID or sha256; None if none."""
    name, at, version = wanted.rpartition("@")
    models = sorted(state.models.values(), key=lambda model: (not model.retired_ms, model.version))
    for model in reversed(models):
        if wanted in (model.name, model.digest.hex(), format_cid(model.digest)):
            return model
        if at and model.name == name and version == str(model.version):
            return model
    return None


def list_models(state: State) -> list[ModelRecord]:
    """Every model of a ledger, by name and version."""
    return sorted(state.models.values(), key=lambda model: (model.name, model.version))


def find_bytes(directory: Path, digest: bytes) -> bytes | None:
    """A model's bytes, from the store of any node under a network's directory, or of the node it is; None if none."""
    for folder in _list_stores(directory):
        try:
            return read_blob(folder, digest)
        except MissingBlob:
            continue
    return None


def _list_stores(directory: Path) -> Iterator[Path]:
    yield directory / BLOBS_NAME
    yield from sorted((directory / "nodes").glob(f"*/{BLOBS_NAME}"))
