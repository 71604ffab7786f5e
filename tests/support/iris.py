"""A job of the iris model that backs its results with `zk`: request, receipt and receipt file."""

import struct

from protocol.jobs import Receipt
from protocol.proofs.context import ProofContext, Trust
from protocol.proofs.receipt_file import VERSION, ReceiptFile
from protocol.tensor import Tensor
from roles.engine.inline import InlineEngine
from roles.zk.circuit import load_iris
from tests.support.jobs import attest, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

ROW = Tensor("float32", (1, 4), struct.pack("<4f", 5.1, 3.5, 1.4, 0.2))
TRUST = Trust(is_test_network=True)


def run_iris(row: Tensor = ROW) -> Tensor:
    circuit = load_iris()
    outputs, _ = InlineEngine(lambda _: circuit.model).compute(circuit.model_digest, (row,))
    return outputs[0]


def shift(tensor: Tensor, index: int, by: float) -> Tensor:
    """The tensor with one of its numbers changed."""
    values = list(struct.unpack(f"<{len(tensor.data) // 4}f", tensor.data))
    values[index] += by
    return Tensor(tensor.dtype, tensor.shape, struct.pack(f"<{len(values)}f", *values))


def make_iris_file(row: Tensor = ROW, output: Tensor | None = None, ledger: Ledger | None = None) -> ReceiptFile:
    """What a client keeps of one answered request for iris."""
    ledger = ledger or Ledger({"validator": 1, "inference": 2, "verifier": 2, "client": 1})
    request = make_request(ledger.state, ledger.foundation, model=load_iris().model_digest, inputs=(row,))
    item = pay(request, ledger.foundation, b"c" * 32)
    outputs = (output or run_iris(row),)
    receipt: Receipt = make_receipt(item, ledger.node("inference-0"), outputs)
    attestations = attest(ledger.state, ledger.foundation, receipt, receipt.output_digest)
    return ReceiptFile(VERSION, request, item.voucher, receipt, outputs, attestations)


def make_context(file: ReceiptFile, trust: Trust = TRUST) -> ProofContext:
    return ProofContext(file.request, file.receipt, file.outputs, file.request.deadline_ms, trust)
