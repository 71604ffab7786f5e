"""Make and check proofs in worker processes."""

import json
import struct

from protocol.errors import CannotCheck, InvalidProof, LocalError
from protocol.proofs.zk import NUMBER_SIZE, NUMBERS_MAX, PROOF_BYTES_MAX, ZkEvidence
from protocol.tensor import Tensor
from roles.zk.circuit import Circuit
from roles.zk.process import WorkerFailed, run_worker


class ProvingFailed(Exception):
    """No proof came out. The message says why."""


def verify_proof(circuit: Circuit, evidence: ZkEvidence) -> None:
    """InvalidProof when ezkl refuses or its process breaks on these bytes, CannotCheck when it cannot say in time."""
    proof = {"instances": [[number.hex() for number in evidence.numbers]], "proof": list(evidence.proof)}
    files = {
        "proof.json": json.dumps(proof).encode(),
        "settings.json": circuit.settings,
        "key": circuit.key,
        "setup": circuit.setup,
    }
    try:
        refused = run_worker("check", files).refused
    except WorkerFailed as error:
        raise CannotCheck(f"the process that checks proofs failed: {error}") from error
    if refused:
        raise InvalidProof(f"the proof does not hold: {refused}")


def prove(circuit: Circuit, tensor: Tensor) -> ZkEvidence:
    """A proof that the circuit's model maps this input (float32, of the circuit's shape) to the output in it.

    CannotCheck without ezkl, ProvingFailed when none comes out. Some seconds.
    """
    values = struct.unpack(f"<{len(tensor.data) // 4}f", tensor.data)
    files = {
        "model.onnx": circuit.model,
        "settings.json": circuit.settings,
        "setup": circuit.setup,
        "input.json": json.dumps({"input_data": [values]}).encode(),
    }
    try:
        ended = run_worker("make", files, wanted=("key", "proof.json"))
    except WorkerFailed as error:
        raise ProvingFailed(str(error)) from error
    if ended.refused:
        raise ProvingFailed(ended.refused)
    if ended.files["key"] != circuit.key:
        raise ProvingFailed(
            "this ezkl makes another verifying key of the same circuit: use the version it was made with"
        )
    return _read_proof(circuit, ended.files["proof.json"])


def _read_proof(circuit: Circuit, data: bytes) -> ZkEvidence:
    fields = json.loads(data)
    numbers = tuple(bytes.fromhex(number) for number in fields["instances"][0])
    proof = bytes(fields["proof"])
    if len(proof) > PROOF_BYTES_MAX or len(numbers) > NUMBERS_MAX or any(len(each) != NUMBER_SIZE for each in numbers):
        raise LocalError(f"a proof of {len(proof)} bytes with {len(numbers)} numbers")
    return ZkEvidence(circuit.id, proof, numbers)
