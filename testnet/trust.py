"""Whom a reader of proofs trusts: measurements it lists, and a chain that is known for a test network."""

import json
from collections.abc import Iterable
from pathlib import Path

from protocol.errors import MalformedMessage
from protocol.keys import PrivateKey
from protocol.ledger.genesis import Genesis, compute_chain_id
from protocol.proofs.context import Measurement
from protocol.proofs.nitro import PCR_SIZE
from testnet.genesis import derive_seeds
from testnet.network_file import NetworkFile

MEASUREMENTS_BYTES_MAX = 64 * 1024


def find_test_chain(network: NetworkFile) -> bytes | None:
    """The id of the chain this file founds, when anyone can have its validators' keys; else None.

    The file's own word counts for nothing: each validator's node key in genesis must follow from the file's seed.
    """
    try:
        genesis = Genesis.from_json(json.dumps(network.genesis))
    except MalformedMessage:
        return None
    validators = {node.node for node in genesis.nodes if "validator" in node.roles}
    entries = (node for node in network.nodes if node.role == "validator")
    public = {PrivateKey.from_seed(derive_seeds(network.seed, node.name, node.role).node).public for node in entries}
    return compute_chain_id(genesis) if validators and validators <= public else None


def read_measurements(path: Path) -> frozenset[Measurement]:
    """A list of objects with PCR0, PCR1 and PCR2 in hex, as `nitro-cli build-enclave` prints one. ValueError, OSError.

    A single object, with or without its "Measurements" around it, does as well.
    """
    with path.open("rb") as file:
        data = file.read(MEASUREMENTS_BYTES_MAX + 1)
    if len(data) > MEASUREMENTS_BYTES_MAX:
        raise ValueError(f"larger than {MEASUREMENTS_BYTES_MAX} bytes")
    fields = json.loads(data)
    return frozenset(_read_all(fields if isinstance(fields, list) else [fields]))


def _read_all(items: list[object]) -> Iterable[Measurement]:
    for item in items:
        fields = item.get("Measurements", item) if isinstance(item, dict) else None
        if not isinstance(fields, dict):
            raise ValueError("a measurement is an object with PCR0, PCR1 and PCR2")
        try:
            values = [bytes.fromhex(fields[f"PCR{number}"]) for number in range(3)]
        except (KeyError, TypeError) as error:
            raise ValueError(f"a measurement without {error}") from error
        if any(len(value) != PCR_SIZE for value in values):
            raise ValueError(f"a PCR of other than {PCR_SIZE} bytes")
        yield Measurement(*values)
