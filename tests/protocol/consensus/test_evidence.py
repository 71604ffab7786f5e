"""Evidence convicts whoever signed what no honest validator signs, and nobody else."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.consensus.evidence import Evidence, NoFault, get_height, verify_evidence
from protocol.consensus.messages import Justification, Vote
from protocol.ledger.block import NOTHING
from tests.protocol.consensus.test_core import (
    BLOCK,
    CHAIN,
    KEYS,
    OTHER,
    VALIDATORS,
    certify,
    final,
    propose,
    signs,
    void,
    vote,
)

EMPTY = Justification((), ())


def proposal(number: int, block: bytes = BLOCK, view: int = 1, why: Justification | None = None) -> Vote:
    made = propose(number, block, view, why)
    return Vote(made.ballot, made.leader, made.signature)


def notarise(number: int, block: bytes = BLOCK, view: int = 1, why: Justification | None = None) -> Vote:
    return vote(number, propose(number, block, view, why).ballot)


def skip() -> Justification:
    """Why view 2 may propose a new block."""
    return Justification((), (certify(void(1)),))


def gap(number: int) -> Evidence:
    """A vote for view 3 that leaves out view 2."""
    why = skip()
    ballot = replace(propose(number, view=3).ballot, justification=signs(number).digest(why))
    return Evidence((vote(number, ballot),), (), (why,))


def forged(number: int) -> Evidence:
    """A vote for view 2 on a certificate that two of four have signed."""
    why = Justification((), (certify(void(1), (0, 1)),))
    return Evidence((notarise(number, view=2, why=why),), (), (why,))


FAULTS: dict[str, Callable[[int], Evidence]] = {
    "two proposals": lambda n: Evidence((), (proposal(n), proposal(n, OTHER)), ()),
    "two proposals of one block": lambda n: Evidence(
        (), (proposal(n, view=2, why=EMPTY), proposal(n, view=2, why=Justification((), (certify(void(1)),)))), ()
    ),
    "two to notarise": lambda n: Evidence((notarise(n), notarise(n, OTHER)), (), ()),
    "two to finalise": lambda n: Evidence((vote(n, final()), vote(n, final(block=OTHER))), (), ()),
    "finalise and nullify": lambda n: Evidence((vote(n, final()), vote(n, void())), (), ()),
    "nullify and finalise": lambda n: Evidence((vote(n, void()), vote(n, final())), (), ()),
    "a gap": gap,
    "a forged certificate": forged,
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("number", range(4))
def test_every_attributable_fault_convicts_its_signer(name: str, number: int) -> None:
    evidence = FAULTS[name](number)
    assert verify_evidence(evidence, VALIDATORS, CHAIN) == KEYS[number].public
    assert get_height(evidence) == 1


HONEST: dict[str, Callable[[], Evidence]] = {
    "nothing": lambda: Evidence((), (), ()),
    "one vote": lambda: Evidence((vote(0, final()),), (), ()),
    "one vote twice": lambda: Evidence((vote(0, final()), vote(0, final())), (), ()),
    "one proposal twice": lambda: Evidence((), (proposal(0), proposal(0)), ()),
    "votes of two views": lambda: Evidence((vote(0, final()), vote(0, final(2, OTHER))), (), ()),
    "votes of two validators": lambda: Evidence((vote(0, final()), vote(1, final(block=OTHER))), (), ()),
    "notarise and finalise": lambda: Evidence((notarise(0), vote(0, final())), (), ()),
    "nullify and notarise": lambda: Evidence((vote(0, void()), notarise(0)), (), ()),
    "propose and notarise": lambda: Evidence((notarise(0),), (proposal(0),), ()),
    "a justified vote": lambda: Evidence((notarise(0, view=2, why=skip()),), (), (skip(),)),
    "another justification": lambda: Evidence((notarise(0, view=2, why=EMPTY),), (), (skip(),)),
    "a vote to finalise without justification": lambda: Evidence((vote(0, final(2)),), (), (EMPTY,)),
    "two faults at once": lambda: Evidence((notarise(0), notarise(0, OTHER)), (), (EMPTY,)),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_what_honest_validators_sign_convicts_nobody(name: str) -> None:
    with pytest.raises(NoFault):
        verify_evidence(HONEST[name](), VALIDATORS, CHAIN)


@pytest.mark.parametrize("name", FAULTS)
def test_evidence_needs_signatures_of_a_validator_on_this_chain(name: str) -> None:
    evidence = FAULTS[name](0)
    unsigned = tuple(replace(item, signature=bytes(64)) for item in evidence.votes)
    with pytest.raises(NoFault):
        verify_evidence(replace(evidence, votes=unsigned) if unsigned else _unsign(evidence), VALIDATORS, CHAIN)
    with pytest.raises(NoFault):
        verify_evidence(evidence, VALIDATORS, b"chain-02")
    others = tuple(item for item in VALIDATORS if item.vote != KEYS[0].public)
    with pytest.raises(NoFault):
        verify_evidence(evidence, others, CHAIN)


@given(
    kind=st.integers(0, 3),
    parent=st.integers(0, 3),
    block=st.sampled_from((BLOCK, OTHER, NOTHING)),
    justification=st.sampled_from((NOTHING, b"\x09" * 32, signs(0).digest(EMPTY))),
    as_proposal=st.booleans(),
)
def test_one_signature_never_counts_as_two_whatever_its_ballot_is_made_to_say(
    kind: int, parent: int, block: bytes, justification: bytes, as_proposal: bool
) -> None:
    honest = [notarise(0), vote(0, final()), proposal(0)]
    for item in honest:
        ballot = replace(item.ballot, kind=kind, parent=parent, block_id=block, justification=justification)
        twisted = replace(item, ballot=ballot)
        pair = (item, twisted)
        evidence = Evidence((), pair, ()) if as_proposal else Evidence(pair, (), ())
        with pytest.raises(NoFault):
            verify_evidence(evidence, VALIDATORS, CHAIN)


def _unsign(evidence: Evidence) -> Evidence:
    return replace(evidence, proposals=tuple(replace(item, signature=bytes(64)) for item in evidence.proposals))
