"""One claim in dispute on a ledger, word by word."""

from protocol.jobs import Receipt
from protocol.ledger.dispute_records import Dispute
from protocol.ledger.disputes import (
    CheckedLeaf,
    JudgeOperator,
    NameOperator,
    OpenDispute,
    PostExhibit,
    PostTrace,
)
from protocol.ledger.transactions import compute_transaction_id
from protocol.proofs.trace import Exhibit, Given, Judgement, pack_trace
from protocol.tensor import Tensor, compute_tensors_digest
from tests.support.jobs import ROW
from tests.support.ledgers import Ledger

TRUTH = b"\x01" * 32  # what the challenger has found
BETWEEN = (Tensor("float32", (2,), bytes.fromhex("0000c07f0000807f")),)  # a NaN and an infinity
FOUR = {"validator": 4, "inference": 1, "verifier": 3, "client": 1}


class Quarrel:
    """A model of two operators: the first takes the inputs, the second what the first gives."""

    def __init__(self, ledger: Ledger, challenger: str = "verifier-0", receipt: Receipt | None = None) -> None:
        self.ledger = ledger
        self.challenger = ledger.account(challenger)
        self.receipt = ledger.work(ledger.open_channel())[0] if receipt is None else receipt
        claim = self.receipt.claim
        names = ledger.foundation.nodes
        self.worker = next(ledger.account(name) for name in names if ledger.node(name).public == claim.worker)
        self.trace = (claim.input_digest, compute_tensors_digest(BETWEEN), b"2" * 32, self.receipt.output_digest)
        self.id = b""

    @property
    def held(self) -> Dispute:
        return self.ledger.state.disputes[self.id]

    @property
    def is_over(self) -> bool:
        return self.id not in self.ledger.state.disputes

    def order(self, *, leaf: CheckedLeaf | None = None, found: bytes = TRUTH, profile: str = "other") -> OpenDispute:
        if leaf is not None:
            return OpenDispute((), (leaf,), found, profile)
        return OpenDispute((self.receipt,), (), found, profile)

    def open(self, leaf: CheckedLeaf | None = None) -> "Quarrel":
        transaction = self.ledger.sign(self.challenger, self.order(leaf=leaf))
        assert self.ledger.block(transaction) == []
        self.id = compute_transaction_id(transaction)
        return self

    def post(self) -> PostTrace:
        return PostTrace(self.id, pack_trace(self.trace))

    def name(self, operator: int = 2) -> NameOperator:
        return NameOperator(self.id, operator)

    def show(self, operator: int = 2) -> PostExhibit:
        given = (Given(0, (ROW,)),) if operator == 1 else (Given(1, BETWEEN),)
        return PostExhibit(self.id, (Exhibit(given),), ())

    def judge(self, judgement: Judgement) -> JudgeOperator:
        return JudgeOperator(self.id, judgement)

    def trace_it(self) -> "Quarrel":
        self.ledger.do(self.worker, self.post())
        return self

    def name_it(self, operator: int = 2) -> "Quarrel":
        self.ledger.do(self.challenger, self.name(operator))
        return self

    def show_it(self, operator: int = 2) -> "Quarrel":
        self.ledger.do(self.worker, self.show(operator))
        return self

    def argue(self) -> "Quarrel":
        """Everything up to the verdict."""
        return self.open().trace_it().name_it().show_it()

    def condemn(self) -> "Quarrel":
        """The worker has lost: every validator says so that is asked."""
        self.argue()
        validators = (name for name in self.ledger.foundation.nodes if name.startswith("validator"))
        for name in validators:
            if not self.is_over:
                self.ledger.do(self.ledger.account(name), self.judge(Judgement.WRONG))
        assert self.is_over
        return self

    def vote(self, judgement: Judgement, *validators: int) -> "Quarrel":
        for number in validators:
            self.ledger.do(self.ledger.account(f"validator-{number}"), self.judge(judgement))
        return self
