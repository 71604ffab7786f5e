"""Real proofs: one that holds, and everything near it that does not. Needs ezkl (`make test-zk`)."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.codec import encode
from protocol.errors import CannotCheck, InvalidProof, RemoteError
from protocol.proofs.receipt_file import Backing, verify_receipt_file
from protocol.proofs.zk import FIELD_ORDER, ZkEvidence, decode_number, encode_number
from protocol.tensor import Tensor
from roles.zk.circuit import FOLDER, Circuit, load_iris
from roles.zk.kind import ZK
from roles.zk.process import TIMEOUT_S, WorkerFailed, run_worker
from roles.zk.prove import ProvingFailed, prove, verify_proof
from tests.support.iris import ROW, TRUST, make_context, make_iris_file, run_iris, shift

ezkl = pytest.importorskip("ezkl", reason="NO ZERO-KNOWLEDGE TESTS: ezkl is not installed; run `make test-zk`")

CIRCUIT = load_iris()
FILE = make_iris_file()


@pytest.fixture(scope="module")
def evidence() -> ZkEvidence:
    return prove(CIRCUIT, ROW)


def test_a_real_proof_is_shown_with_its_bound(evidence: ZkEvidence) -> None:
    assert "0.0625" in ZK.verify(make_context(FILE), encode(evidence))
    assert len(evidence.proof) < 4_000
    file = replace(FILE, backings=(Backing("zk", encode(evidence)),))
    assert next(item for item in verify_receipt_file(file, trust=TRUST) if item.level == "zk").is_shown


def test_two_proofs_of_one_job_differ_and_both_hold(evidence: ZkEvidence) -> None:
    other = prove(CIRCUIT, ROW)
    assert other.proof != evidence.proof
    assert other.numbers == evidence.numbers
    verify_proof(CIRCUIT, other)


def _add(evidence: ZkEvidence, index: int) -> ZkEvidence:
    numbers = list(evidence.numbers)
    numbers[index] = encode_number(decode_number(numbers[index]) + 1)
    return replace(evidence, numbers=tuple(numbers))


def _spell_past_the_field(evidence: ZkEvidence) -> ZkEvidence:
    beyond = int.from_bytes(evidence.numbers[0], "little") + FIELD_ORDER
    return replace(evidence, numbers=(beyond.to_bytes(32, "little"), *evidence.numbers[1:]))


def _flip(evidence: ZkEvidence, place: int) -> ZkEvidence:
    proof = bytearray(evidence.proof)
    proof[place] ^= 1
    return replace(evidence, proof=bytes(proof))


# Given to ezkl itself, past our own checks of the numbers.
TAMPERED: dict[str, Callable[[ZkEvidence], ZkEvidence]] = {
    "an input one higher": lambda e: _add(e, 0),
    "an output one higher": lambda e: _add(e, 4),
    "the last output one higher": lambda e: _add(e, 6),
    "a number fewer": lambda e: replace(e, numbers=e.numbers[:-1]),
    "a number more": lambda e: replace(e, numbers=(*e.numbers, encode_number(0))),
    "no numbers": lambda e: replace(e, numbers=()),
    "a number spelled past the field": _spell_past_the_field,
    "its first byte flipped": lambda e: _flip(e, 0),
    "a byte of its first third flipped": lambda e: _flip(e, len(e.proof) // 3),
    "a byte of its last third flipped": lambda e: _flip(e, 2 * len(e.proof) // 3),
    "its last byte flipped": lambda e: _flip(e, len(e.proof) - 1),
    "its end cut off": lambda e: replace(e, proof=e.proof[:-32]),
    "no proof": lambda e: replace(e, proof=b""),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_proof_is_refused_that_has(name: str, evidence: ZkEvidence) -> None:
    with pytest.raises(InvalidProof, match="does not hold"):
        verify_proof(CIRCUIT, TAMPERED[name](evidence))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Circuit]:
    """The circuit with another reference string, the key that fits that, other settings, and one weight changed."""
    folder = tmp_path_factory.mktemp("other")
    ezkl.gen_srs(str(folder / "setup"), 10)
    setup = (folder / "setup").read_bytes()
    files = {"model.onnx": CIRCUIT.model, "settings.json": CIRCUIT.settings, "setup": setup, "input.json": _input(ROW)}
    key = run_worker("make", files, wanted=("key",)).files["key"]
    assert key != CIRCUIT.key
    settings = json.loads(CIRCUIT.settings)
    settings["run_args"]["logrows"] = 11
    weight = struct.pack("<f", _read_weight(CIRCUIT.model) + 0.5)
    model = CIRCUIT.model.replace(struct.pack("<f", _read_weight(CIRCUIT.model)), weight, 1)
    assert len(model) == len(CIRCUIT.model)
    return {
        "another reference string": replace(CIRCUIT, setup=setup),
        "another key": replace(CIRCUIT, key=key),
        "another key and reference string": replace(CIRCUIT, key=key, setup=setup),
        "other settings": replace(CIRCUIT, settings=json.dumps(settings).encode()),
        "one weight changed": replace(CIRCUIT, model=model),
    }


def _read_weight(model: bytes) -> float:
    """The first weight: what follows the name of the first initialiser, after the tag and length of its raw data."""
    at = model.index(b"weights_0", model.index(b"iris")) + len(b"weights_0") + 3
    return float(struct.unpack_from("<f", model, at)[0])


def _input(row: Tensor) -> bytes:
    return json.dumps({"input_data": [struct.unpack("<4f", row.data)]}).encode()


@pytest.mark.parametrize("name", ["another reference string", "another key", "another key and reference string"])
def test_a_proof_is_refused_under(name: str, evidence: ZkEvidence, others: dict[str, Circuit]) -> None:
    with pytest.raises(InvalidProof, match="does not hold"):
        verify_proof(others[name], evidence)


def test_a_proof_is_refused_under_other_settings(evidence: ZkEvidence, others: dict[str, Circuit]) -> None:
    with pytest.raises(InvalidProof, match="does not hold"):
        verify_proof(others["other settings"], evidence)


def test_a_proof_of_a_model_with_one_weight_changed_is_refused(others: dict[str, Circuit]) -> None:
    circuit = others["one weight changed"]
    with pytest.raises(ProvingFailed, match="another verifying key"):
        prove(circuit, ROW)
    files = {
        "model.onnx": circuit.model,
        "settings.json": circuit.settings,
        "setup": circuit.setup,
        "input.json": _input(ROW),
    }
    made = run_worker("make", files, wanted=("key", "proof.json")).files
    own = replace(circuit, key=made["key"])
    fields = json.loads(made["proof.json"])
    evidence = ZkEvidence(CIRCUIT.id, bytes(fields["proof"]), tuple(map(bytes.fromhex, fields["instances"][0])))
    verify_proof(own, evidence)
    with pytest.raises(InvalidProof, match="does not hold"):
        verify_proof(CIRCUIT, evidence)


def test_a_proof_from_a_forged_witness_is_refused(tmp_path: Path) -> None:
    """ezkl proves whatever the witness says without a word; only the verifier notices."""
    (tmp_path / "model.onnx").write_bytes(CIRCUIT.model)
    (tmp_path / "settings.json").write_bytes(CIRCUIT.settings)
    (tmp_path / "setup").write_bytes(CIRCUIT.setup)
    (tmp_path / "input.json").write_bytes(_input(ROW))
    names = ("model.onnx", "circuit", "settings.json", "key", "pk", "setup", "input.json", "witness.json", "proof.json")
    model, circuit, settings, key, pk, setup, given, witness, proof = (str(tmp_path / name) for name in names)
    ezkl.compile_circuit(model, circuit, settings)
    ezkl.setup(circuit, key, pk, setup, None, False)
    ezkl.gen_witness(given, circuit, witness, None, None)
    fields = json.loads(Path(witness).read_text())
    forged = encode_number(decode_number(bytes.fromhex(fields["outputs"][0][0])) + 128)
    fields["outputs"][0][0] = forged.hex()
    Path(witness).write_text(json.dumps(fields))
    ezkl.prove(witness, circuit, pk, proof, setup)
    made = json.loads(Path(proof).read_text())
    evidence = ZkEvidence(CIRCUIT.id, bytes(made["proof"]), tuple(map(bytes.fromhex, made["instances"][0])))
    assert evidence.numbers[4] == forged
    with pytest.raises(InvalidProof, match="does not hold"):
        verify_proof(CIRCUIT, evidence)


def test_what_ezkl_says_besides_proof_and_numbers_is_not_carried(evidence: ZkEvidence) -> None:
    """Its file may be edited there and still verify: `pretty_public_inputs` says what it likes."""
    assert set(ZkEvidence.__dataclass_fields__) == {"circuit", "proof", "numbers"}
    proof = {
        "instances": [[number.hex() for number in evidence.numbers]],
        "proof": list(evidence.proof),
        "hex_proof": "0x00",
        "pretty_public_inputs": {
            "rescaled_inputs": [["1", "2", "3", "4"]],
            "inputs": [],
            "processed_inputs": [],
            "processed_params": [],
            "processed_outputs": [],
            "rescaled_outputs": [["1000000", "0", "0"]],
            "outputs": [],
        },
    }
    files = {
        "proof.json": json.dumps(proof).encode(),
        "settings.json": CIRCUIT.settings,
        "key": CIRCUIT.key,
        "setup": CIRCUIT.setup,
    }
    assert run_worker("check", files).refused == ""


def test_a_proof_backs_no_other_input_or_output(evidence: ZkEvidence) -> None:
    for file, match in (
        (make_iris_file(shift(ROW, 2, 0.01)), "another input"),
        (make_iris_file(ROW, shift(run_iris(), 1, 0.2)), "may differ by"),
        (make_iris_file(ROW, shift(run_iris(), 1, -0.2)), "may differ by"),
    ):
        with pytest.raises(InvalidProof, match=match):
            ZK.verify(make_context(file), encode(evidence))


def test_any_flipped_byte_of_the_evidence_is_refused(evidence: ZkEvidence) -> None:
    data = encode(evidence)
    for place in (*range(0, 40, 7), *range(100, len(data), 900), len(data) - 230, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(RemoteError):
            ZK.verify(make_context(FILE), bytes(changed))


def test_the_rows_of_iris_stay_within_the_bound_and_each_input_is_rounded_as_we_say() -> None:
    for values in ((7.9, 3.8, 6.4, 2.0), (4.3, 3.0, 1.1, 0.1), (6.35, 2.85, 4.71, 1.55)):
        row = Tensor("float32", (1, 4), struct.pack("<4f", *values))
        assert ZK.verify(make_context(make_iris_file(row)), encode(prove(CIRCUIT, row)))


def test_a_process_that_takes_too_long_or_breaks_is_nobodys_word(
    evidence: ZkEvidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WorkerFailed, match="not done"):
        run_worker("make", {}, timeout_s=0.001)
    monkeypatch.setitem(TIMEOUT_S, "check", 0.001)
    with pytest.raises(CannotCheck, match="not done"):
        verify_proof(CIRCUIT, evidence)


def test_missing_files_are_refused_with_a_reason() -> None:
    ended = run_worker("check", {"proof.json": b"{}"})
    assert ended.refused
    assert ended.files == {}


def test_the_reference_string_is_the_one_that_its_description_names() -> None:
    about = json.loads((FOLDER / "circuit.json").read_text())
    assert about["sha256"]["test-setup.bin"] == hashlib.sha256(CIRCUIT.setup).hexdigest()
    assert about["sha256"]["verifying-key.bin"] == hashlib.sha256(CIRCUIT.key).hexdigest()
    assert about["sha256"]["model.onnx"] == hashlib.sha256(CIRCUIT.model).hexdigest()
