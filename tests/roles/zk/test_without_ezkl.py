"""The kind `zk` on a machine without ezkl: it refuses what it can, and says what it lacks about the rest."""

import hashlib
import struct
from dataclasses import replace

import pytest

from protocol.codec import encode
from protocol.errors import CannotCheck, InvalidProof
from protocol.proofs.context import Trust
from protocol.proofs.receipt_file import Backing, verify_receipt_file
from protocol.proofs.zk import ZkEvidence, encode_number, quantise
from roles.zk.circuit import FOLDER, load_circuit, load_iris
from roles.zk.kind import ZK
from roles.zk.prove import prove
from tests.support.iris import ROW, TRUST, make_context, make_iris_file

FILE = make_iris_file()
NUMBERS = tuple(encode_number(quantise(value, 7)) for value in (5.1, 3.5, 1.4, 0.2))
EVIDENCE = ZkEvidence(load_iris().id, b"\1" * 3072, NUMBERS)


@pytest.fixture(autouse=True)
def no_ezkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.zk.process.has_ezkl", lambda: False)
    monkeypatch.setattr("roles.zk.kind.has_ezkl", lambda: False)


def make_numbers() -> ZkEvidence:
    """Numbers that fit the job, under a proof that is none."""
    outputs = struct.unpack("<3f", FILE.outputs[0].data)
    return replace(EVIDENCE, numbers=(*NUMBERS, *(encode_number(quantise(value, 7)) for value in outputs)))


def test_what_fits_is_not_shown_and_the_next_step_is_named() -> None:
    with pytest.raises(CannotCheck, match=r"pip install 'rolemesh\[zk\]'"):
        ZK.verify(make_context(FILE), encode(make_numbers()))
    file = replace(FILE, backings=(Backing("zk", encode(make_numbers())),))
    finding = next(item for item in verify_receipt_file(file, trust=TRUST) if item.level == "zk")
    assert not finding.is_shown
    assert "pip install" in finding.text
    assert "pip install" in ZK.describe().missing
    with pytest.raises(CannotCheck, match="pip install"):
        prove(load_iris(), ROW)


def test_what_does_not_fit_is_refused() -> None:
    for evidence, match in (
        (EVIDENCE, "public numbers"),
        (replace(make_numbers(), circuit=bytes(32)), "not known here"),
        (replace(make_numbers(), numbers=make_numbers().numbers[::-1]), "another input"),
    ):
        with pytest.raises(InvalidProof, match=match):
            ZK.verify(make_context(FILE), encode(evidence))
    other = replace(FILE.receipt, claim=replace(FILE.receipt.claim, model=bytes(32)))
    with pytest.raises(InvalidProof, match="no circuit"):
        ZK.verify(make_context(replace(FILE, receipt=other)), encode(make_numbers()))


def test_a_reference_string_made_on_one_machine_counts_on_test_networks_only() -> None:
    for trust in (Trust(), Trust(setups=frozenset({bytes(32)}))):
        with pytest.raises(InvalidProof, match="test networks only"):
            ZK.verify(make_context(FILE, trust), encode(make_numbers()))
    listed = Trust(setups=frozenset({hashlib.sha256(load_iris().setup).digest()}))
    with pytest.raises(CannotCheck):  # past the list: ezkl is next
        ZK.verify(make_context(FILE, listed), encode(make_numbers()))


def test_the_circuit_that_ships_is_whole_and_small() -> None:
    circuit = load_circuit(FOLDER)
    assert (circuit.terms.input_shape, circuit.terms.output_shape) == ((1, 4), (1, 3))
    assert circuit.terms.slack / 2**circuit.terms.output_scale <= 0.0625
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 150_000
