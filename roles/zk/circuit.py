"""A circuit: what a prover and a verifier of one model must have in common, byte for byte."""

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from protocol.content import compute_digest
from protocol.proofs.zk import Terms, compute_circuit_id

FOLDER = Path(__file__).with_name("iris")


@dataclass(frozen=True)
class Circuit:
    """`setup` is the structured reference string. Whoever knows its secret can prove anything."""

    name: str
    terms: Terms
    model: bytes  # ONNX
    settings: bytes  # ezkl's, JSON
    key: bytes  # the verifying key
    setup: bytes

    @cached_property
    def model_digest(self) -> bytes:
        return compute_digest(self.model)

    @cached_property
    def id(self) -> bytes:
        return compute_circuit_id(self.model_digest, self.settings, self.key, self.setup)


def load_circuit(folder: Path) -> Circuit:
    """Read what `testnet.models.train.iris` wrote. OSError or ValueError when it is not all there."""
    settings = (folder / "settings.json").read_bytes()
    fields, about = json.loads(settings), json.loads((folder / "circuit.json").read_bytes())
    input_shape, output_shape = fields["model_instance_shapes"]
    terms = Terms(
        tuple(input_shape),
        tuple(output_shape),
        fields["model_input_scales"][0],
        fields["model_output_scales"][0],
        about["slack"],
    )
    files = [(folder / name).read_bytes() for name in ("model.onnx", "verifying-key.bin", "test-setup.bin")]
    return Circuit(about["name"], terms, files[0], settings, files[1], files[2])


@lru_cache(maxsize=1)
def load_iris() -> Circuit:
    """The circuit that ships with rolemesh. Its set-up was made by one machine: for test networks only."""
    return load_circuit(FOLDER)
