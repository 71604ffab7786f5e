"""Disputes about text, word by word: what the worker shows, what the challenger names, who loses by silence."""

from dataclasses import replace

import pytest

from protocol.generation import Generation, make_inputs, make_outputs
from protocol.jobs import compute_claim_id, compute_commitment
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import JudgeOperator, NameOperator, OpenDispute, PostExhibit, PostTrace
from protocol.ledger.job_errors import InvalidDispute
from protocol.ledger.step_disputes import NameStep, PostSteps, read_said
from protocol.ledger.transactions import compute_transaction_id
from protocol.proofs.steps import ASSEMBLY, compute_made, compute_taken
from protocol.proofs.trace import Exhibit, Given, Judgement, pack_trace
from protocol.signing import sign
from protocol.tensor import Tensor, compute_tensors_digest
from testnet.genesis import load_models
from tests.support.ledgers import Ledger

FOUR = {"validator": 4, "inference": 1, "verifier": 3, "client": 1}
MODELS = load_models(("digits", "pydoc"))
PYDOC = next(model for model in MODELS if model.name == "pydoc")
PROFILE = "ort=1.31.1;ep=cpu;isa=avx512vnni;th=1;opt=disable;batch=1"
WANTED = Generation((1, 2, 3), 4)
TOKENS = (10, 11, 12, 13)
GIVEN = [(Tensor("float32", (1,), bytes((number, 0, 0, 0))),) for number in range(6)]  # by step
STEPS = b"".join(map(compute_tensors_digest, GIVEN))
FOUND = b"\1" * 32
SILENCE_MS = 200_000


class Quarrel:
    """A dispute about `TOKENS` made after a prompt of three: six steps, the last four of which make a token."""

    def __init__(self, tokens=TOKENS, steps=STEPS, profile=PROFILE, opens=True):
        self.ledger = ledger = Ledger(FOUR, models=MODELS)
        self.worker = ledger.account("inference-0")
        self.inputs, self.outputs = make_inputs(WANTED), make_outputs(tokens, steps)
        receipt = ledger.work(ledger.open_channel())[0]
        digest = compute_tensors_digest(self.outputs)
        claim = replace(
            receipt.claim,
            model=PYDOC.digest,
            profile=PROFILE,
            input_digest=compute_tensors_digest(self.inputs),
            commitment=compute_commitment(receipt.salt, digest),
        )
        node = ledger.node("inference-0")
        self.receipt = replace(receipt, claim=sign(claim, node), output_digest=digest)
        if opens:
            self.open(profile=profile)

    def open(self, challenger="verifier-0", profile=PROFILE):
        self.challenger = self.ledger.account(challenger)
        transaction = self.ledger.sign(self.challenger, OpenDispute((self.receipt,), (), FOUND, profile))
        self.refusals = self.ledger.block(transaction)
        self.id = compute_transaction_id(transaction)
        return self

    @property
    def held(self):
        return self.ledger.state.disputes[self.id]

    @property
    def said(self):
        return read_said(self.ledger.state.models, self.held)

    def post(self, **changes):
        return replace(PostSteps(self.id, self.inputs, self.outputs), **changes)

    def show(self):
        self.ledger.do(self.worker, self.post())
        return self

    def name(self, step):
        self.ledger.do(self.challenger, NameStep(self.id, step))
        return self

    def make_trace(self, step):
        made = self.said.get_made(step)
        ends = () if made is None else (compute_made(made),)
        return (compute_taken(self.said, step, self.said.steps), b"a" * 32, b"b" * 32, self.said.steps[step], *ends)

    def trace(self, step):
        self.ledger.do(self.worker, PostTrace(self.id, pack_trace(self.make_trace(step))))
        return self

    def name_part(self, operator):
        self.ledger.do(self.challenger, NameOperator(self.id, operator))
        return self

    def judge(self, judgement=Judgement.WRONG):
        for number in range(3):
            self.ledger.do(self.ledger.account(f"validator-{number}"), JudgeOperator(self.id, judgement))
        return self

    def argue(self):
        """Down to the verdict, about how the inputs of step 4 were put together."""
        self.show().name(4).trace(4).name_part(ASSEMBLY)
        exhibit = Exhibit(tuple(Given(step, GIVEN[step]) for step in range(4)))
        self.ledger.do(self.worker, PostExhibit(self.id, (exhibit,), ()))
        return self


def test_a_dispute_about_text_goes_from_its_steps_to_one_part_of_one_step_and_a_verdict():
    quarrel = Quarrel()
    assert quarrel.refusals == []
    assert quarrel.held.phase == DisputePhase.STEPS

    quarrel.show()
    assert quarrel.held.phase == DisputePhase.STEP
    quarrel.name(4)
    assert quarrel.held.phase == DisputePhase.TRACE
    quarrel.trace(4).name_part(ASSEMBLY)
    exhibit = Exhibit(tuple(Given(step, GIVEN[step]) for step in range(4)))
    quarrel.ledger.do(quarrel.worker, PostExhibit(quarrel.id, (exhibit,), ()))
    assert quarrel.held.phase == DisputePhase.VERDICT
    quarrel.judge()

    assert compute_claim_id(quarrel.receipt.claim) in quarrel.ledger.state.wrong
    assert not quarrel.ledger.state.disputes


def test_an_optimised_or_another_profile_leaves_nothing_to_dispute():
    assert isinstance(Quarrel(profile=PROFILE.replace("1.31.1", "1.28.0")).refusals[0], InvalidDispute)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": make_inputs(replace(WANTED, seed=1))},
        {"outputs": make_outputs((10, 11, 12, 14), STEPS)},
        {"outputs": make_outputs(TOKENS, bytes(len(STEPS)))},
        {"outputs": ()},
    ],
)
def test_what_was_neither_claimed_nor_opened_cannot_be_shown(changes):
    quarrel = Quarrel()

    assert isinstance(quarrel.ledger.refuse(quarrel.worker, quarrel.post(**changes)), InvalidDispute)


@pytest.mark.parametrize(
    ("tokens", "steps"),
    [(TOKENS[:3], STEPS[:-32]), ((*TOKENS, 14), STEPS + bytes(32)), ((10, 11, 12, 96), STEPS), (TOKENS, STEPS[:-32])],
)
def test_an_answer_of_the_wrong_length_cannot_be_shown_and_its_worker_loses_by_silence(tokens, steps):
    quarrel = Quarrel(tokens, steps)
    assert isinstance(quarrel.ledger.refuse(quarrel.worker, quarrel.post()), InvalidDispute)

    quarrel.ledger.block(after_ms=SILENCE_MS)
    quarrel.ledger.block(after_ms=SILENCE_MS)

    assert compute_claim_id(quarrel.receipt.claim) in quarrel.ledger.state.wrong


def test_a_challenger_that_names_no_step_loses_its_bond():
    quarrel = Quarrel().show()
    burned = quarrel.ledger.state.burned

    quarrel.ledger.block(after_ms=SILENCE_MS)
    quarrel.ledger.block(after_ms=SILENCE_MS)

    assert not quarrel.ledger.state.disputes
    assert not quarrel.ledger.state.wrong
    assert quarrel.ledger.state.burned > burned


def test_only_whose_turn_it_is_speaks():
    quarrel = Quarrel()
    for account, body in (
        (quarrel.challenger, quarrel.post()),
        (quarrel.challenger, NameStep(quarrel.id, 0)),
        (quarrel.worker, PostTrace(quarrel.id, bytes(64))),
    ):
        assert isinstance(quarrel.ledger.refuse(account, body), InvalidDispute)
    quarrel.show()
    for account, body in (
        (quarrel.worker, NameStep(quarrel.id, 0)),
        (quarrel.worker, quarrel.post()),
        (quarrel.challenger, NameStep(quarrel.id, 6)),
    ):
        assert isinstance(quarrel.ledger.refuse(account, body), InvalidDispute)


@pytest.mark.parametrize("step", [0, 2, 5])
@pytest.mark.parametrize("place", [0, -1, -2])
def test_a_trace_of_a_step_begins_with_what_it_takes_and_ends_with_what_was_answered(step, place):
    quarrel = Quarrel().show().name(step)
    trace = list(quarrel.make_trace(step))
    is_bound = place != -2 or step >= 2
    trace[place] = b"x" * 32
    body = PostTrace(quarrel.id, pack_trace(trace))

    if is_bound:
        assert isinstance(quarrel.ledger.refuse(quarrel.worker, body), InvalidDispute)
    else:
        quarrel.ledger.do(quarrel.worker, body)


@pytest.mark.parametrize(
    "given",
    [
        (),
        tuple(Given(step, GIVEN[step]) for step in range(3)),
        tuple(Given(step, GIVEN[step]) for step in range(5)),
        (*(Given(step, GIVEN[step]) for step in range(3)), Given(3, GIVEN[4])),
    ],
)
def test_what_a_step_is_put_together_from_is_what_the_steps_before_it_gave(given):
    quarrel = Quarrel().show().name(4).trace(4).name_part(ASSEMBLY)

    body = PostExhibit(quarrel.id, (Exhibit(given),), ())

    assert isinstance(quarrel.ledger.refuse(quarrel.worker, body), InvalidDispute)
