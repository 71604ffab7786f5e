"""Whose turn it is to dispute a text, and that a verifier answers in its own dispute and no other."""

from dataclasses import replace

import pytest

from protocol.codec import decode
from protocol.jobs import compute_claim_id
from protocol.ledger.disputes import OpenDispute
from protocol.ledger.step_disputes import NameStep
from protocol.proofs.steps import ForcedSteps, ForceSteps, Generated
from protocol.proofs.trace import Judgement
from roles.challenge import AGAIN_MS, CHALLENGE, SPARE_MS, WAIT_MS, Challenge
from roles.challenger import Challenger
from roles.role import Inspect, Record, SetTimer, Store, Submit
from roles.step_challenger import STEP_CHALLENGE
from tests.protocol.ledger.test_step_disputes import FOUND, PROFILE, STEPS, TOKENS, Quarrel


def find_all(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


class Doubt:
    """A verifier that made another text than `Quarrel`'s worker says."""

    def __init__(self):
        self.quarrel = Quarrel(opens=False)
        self.ledger = self.quarrel.ledger
        self.account = self.ledger.account("verifier-0")
        self.challenger = Challenger(self.account.public)
        receipt = self.quarrel.receipt
        self.challenge = Challenge(
            receipt.claim, (receipt,), (), receipt.output_digest, self.quarrel.inputs, FOUND, PROFILE
        )
        self.token = STEP_CHALLENGE + compute_claim_id(receipt.claim).hex()

    @property
    def now_ms(self):
        return self.ledger.state.time_ms

    @property
    def latest_ms(self):
        return self.challenge.claim.deadline_ms + self.ledger.state.params.challenge_ms

    def begin(self, rank=0):
        return self.challenger.begin(self.challenge, self.ledger.state, self.now_ms, rank)

    def look(self):
        return self.challenger.look(self.ledger.state, self.now_ms)

    def wait(self, after_ms):
        self.ledger.block(after_ms=after_ms)
        return self.challenger.on_timer(self.ledger.state, self.now_ms)

    def said(self, error=""):
        return self.challenger.on_submitted(self.token, error, self.ledger.state, self.now_ms)

    def force(self):
        """It finds that step 2 gives something else."""
        forced = ForcedSteps(STEPS[:64] + bytes(32) + STEPS[96:], TOKENS, PROFILE)
        return self.challenger.on_inspected(self.token, forced, "", self.ledger.state, self.now_ms)


def test_a_verifier_disputes_a_text_at_once_and_names_the_step_when_it_is_shown():
    doubt = Doubt()
    begun = doubt.begin()
    assert [effect.value for effect in find_all(begun, Store)]
    (opening,) = find_all(begun, Submit)
    assert opening.item == OpenDispute(doubt.challenge.receipt, (), FOUND, PROFILE)
    assert not find_all(doubt.look(), Submit)

    quarrel = doubt.quarrel.open().show()
    (inspect,) = find_all(doubt.said(), Inspect)
    assert inspect.question == ForceSteps(Generated(quarrel.inputs, quarrel.outputs))
    (named,) = find_all(doubt.force(), Submit)
    assert named.item == NameStep(quarrel.id, 2)
    assert not find_all(doubt.look(), Inspect)
    doubt.said("the block was full")
    assert find_all(doubt.look(), Inspect)


def test_those_drawn_first_dispute_a_text_first_and_their_dispute_is_waited_for():
    doubt = Doubt()
    begun = doubt.begin(rank=1)
    assert not find_all(begun, Submit)
    assert find_all(begun, SetTimer)[0].name == CHALLENGE
    other = doubt.quarrel.open("verifier-1")
    assert not find_all(doubt.wait(WAIT_MS), Submit)
    other.show()
    assert not find_all(doubt.look(), Inspect)  # it is the other that names the step
    other.name(4).trace(4).name_part(2)
    other.ledger.block(after_ms=200_000)
    other.ledger.block(after_ms=200_000)
    assert compute_claim_id(doubt.challenge.claim) in doubt.ledger.state.wrong
    assert [item.name for item in find_all(doubt.look(), Record)] == ["challenge.over"]
    assert not doubt.begin()
    assert doubt.challenger.load == 0


def test_if_nobody_drawn_before_disputes_a_text_the_next_one_does():
    doubt = Doubt()
    doubt.begin(rank=1)
    assert not find_all(doubt.wait(WAIT_MS - 1), Submit)
    assert find_all(doubt.wait(1), Submit)


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_dispute_for_show_keeps_nobody_from_disputing_a_text(is_lost):
    doubt = Doubt()
    doubt.begin(rank=1)
    sham = doubt.quarrel.open("verifier-1")
    if is_lost:
        sham.argue().judge(Judgement.SOUND)
    else:
        assert not find_all(doubt.wait(WAIT_MS), Submit)
        doubt.wait(doubt.latest_ms - SPARE_MS - doubt.now_ms - 1)
    (opening,) = find_all(doubt.wait(WAIT_MS), Submit)
    doubt.ledger.do(doubt.account, opening.item)
    assert not find_all(doubt.said(), Inspect)  # ours waits for the worker, whatever the other does


def test_in_two_disputes_about_one_text_each_verifier_answers_in_its_own():
    doubt = Doubt()
    doubt.begin()
    doubt.quarrel.open("verifier-1").show()
    other = doubt.quarrel.id
    own = doubt.quarrel.open()
    assert not find_all(doubt.said(), Inspect)
    assert not find_all(doubt.force(), Submit)
    own.show()
    assert find_all(doubt.look(), Inspect)
    (named,) = find_all(doubt.force(), Submit)
    assert named.item == NameStep(own.id, 2)
    assert named.item.dispute != other


def test_a_dispute_about_text_the_ledger_has_no_room_for_is_opened_again_while_there_is_time():
    doubt = Doubt()
    (opening,) = find_all(doubt.begin(), Submit)
    assert not find_all(doubt.said("disputes: 32 of 32"), Submit)
    assert not find_all(doubt.look(), Submit)
    (again,) = find_all(doubt.wait(AGAIN_MS), Submit)
    assert again.item == opening.item
    doubt.wait(doubt.latest_ms - doubt.now_ms)
    (dropped,) = find_all(doubt.said("it could be disputed until then"), Store)
    assert dropped.value is None


def test_a_restarted_verifier_goes_on_with_the_dispute_about_text_it_has_opened():
    doubt = Doubt()
    (kept,) = find_all(doubt.begin(), Store)
    assert decode(Challenge, kept.value) == doubt.challenge
    own = doubt.quarrel.open().show()
    doubt.challenger = Challenger(doubt.account.public)
    (timer,) = doubt.challenger.restore({kept.bucket: {kept.key: kept.value}}, doubt.now_ms)
    assert timer == SetTimer(CHALLENGE, doubt.now_ms)
    assert find_all(doubt.wait(1), Inspect)
    (named,) = find_all(doubt.force(), Submit)
    assert named.item == NameStep(own.id, 2)


def test_of_a_text_made_under_another_profile_nothing_is_disputed():
    doubt = Doubt()
    doubt.challenge = replace(doubt.challenge, profile=PROFILE.replace("1.31.1", "1.28.0"))
    assert not doubt.begin()


def test_a_dispute_about_text_that_was_lost_is_not_opened_again():
    doubt = Doubt()
    doubt.begin()
    doubt.quarrel.open().argue()
    doubt.said()
    doubt.quarrel.judge(Judgement.SOUND)
    assert [item.name for item in find_all(doubt.look(), Record)] == ["challenge.over"]
    assert not doubt.begin()
