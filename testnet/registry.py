"""List the models of a ledger, and find their bytes in the stores of a network on this machine."""

from collections.abc import Iterator
from pathlib import Path

from protocol.errors import MissingBlob
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.state import State
from roles.blobs import read_blob

BLOBS_NAME = "blobs"


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
