"""All that can happen to four validators, one of them a liar, in two views: most of it in `make test-full`.

That the searches would find a violation is shown by cores that break a promise each.
"""

from collections.abc import Callable

import pytest

from protocol.consensus import simplex
from protocol.consensus.messages import Justification, Proposal, verify_justification
from protocol.consensus.signed import Signed
from protocol.consensus.tally import Tally
from protocol.ledger.block import VoteKind
from tests.protocol.consensus import plain
from tests.protocol.consensus.automaton import Automaton
from tests.protocol.consensus.plain import LIAR, Violation
from tests.protocol.consensus.search import Search


@pytest.fixture
def one_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "VIEWS", 1)


# The search


@pytest.mark.parametrize("leader", [0, LIAR])
def test_in_one_view_validators_cannot_disagree_however_often_they_die(leader: int):
    found = Search((leader, 1), views=1, has_crashes=True, is_late=False)
    found.run()
    assert found.worlds > 200


def test_in_two_views_of_one_leader_validators_cannot_disagree():
    found = Search((0, 0), is_late=False)
    found.run()
    assert found.worlds > 2_500


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("leaders", [(0, 1), (0, 0), (LIAR, 0), (0, LIAR), (LIAR, LIAR)])
def test_in_two_views_validators_cannot_disagree_however_often_they_die(leaders: tuple[int, int]):
    found = Search(leaders, has_crashes=True)
    found.run()
    assert found.worlds > 5_000


# It leaves nothing out, and adds nothing, where all interleavings can be gone through


@pytest.mark.usefixtures("one_view")
@pytest.mark.parametrize(
    ("leader", "crashes"),
    [(0, 0), *(pytest.param(*each, marks=pytest.mark.full) for each in [(0, 1), (LIAR, 0), (LIAR, 1)])],
)
def test_in_one_view_it_finds_what_all_interleavings_lead_to(leader: int, crashes: int):
    assert_the_same(plain.Search((leader, 1, LIAR), crashes), Search((leader, 1), 1, bool(crashes), is_late=False))


@pytest.mark.full
@pytest.mark.timeout(900)
def test_in_two_views_with_honest_leaders_it_finds_what_all_interleavings_lead_to():
    assert_the_same(plain.Search((0, 1, LIAR)), Search((0, 1), is_late=False))


def assert_the_same(slow: plain.Search, fast: Search) -> None:
    slow.run()
    fast.run()
    assert fast.outcomes == slow.outcomes
    assert len(fast.outcomes) > 200


# It finds what is there to find


def test_it_finds_that_two_of_four_are_no_quorum(monkeypatch: pytest.MonkeyPatch):
    begin = Tally.__init__

    def begin_with_less(tally: Tally, weights: dict[bytes, int]) -> None:
        begin(tally, weights)
        tally._total //= 2  # two of four are a quorum then

    monkeypatch.setattr(Tally, "__init__", begin_with_less)
    with pytest.raises(Violation, match="two blocks are"):
        Search((LIAR, 0), views=1).run()


def test_it_finds_that_votes_must_not_be_forgotten(monkeypatch: pytest.MonkeyPatch):
    begin = Automaton._begin
    monkeypatch.setattr(Automaton, "_begin", lambda all_states, who, log, *said: begin(all_states, who, (), *said))
    with pytest.raises(Violation, match="two blocks are"):
        Search((LIAR, 0), views=1, has_crashes=True).run()


LIARS = [(LIAR, 0), (0, LIAR), (LIAR, LIAR)]


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("leaders", LIARS)
def test_it_finds_that_nobody_may_finalise_what_it_has_nullified(
    monkeypatch: pytest.MonkeyPatch, leaders: tuple[int, int]
):
    monkeypatch.setattr(Signed, "may_finalise", lambda signed, view: view not in signed.votes[VoteKind.FINALISE])
    with pytest.raises(Violation, match="two blocks are decided"):
        Search(leaders, is_late=False).run()


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("leaders", LIARS[1:])
def test_it_finds_that_no_view_may_be_passed_over_without_its_nullification(
    monkeypatch: pytest.MonkeyPatch, leaders: tuple[int, int]
):
    monkeypatch.setattr(simplex, "verify_justification", allow(lambda parent, why: (parent, why.notarised) == (0, ())))
    with pytest.raises(Violation, match="two blocks are decided"):
        Search(leaders, is_late=False).run()


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("leaders", LIARS[1:])
def test_it_finds_that_a_leader_must_repeat_the_very_block_that_is_notarised(
    monkeypatch: pytest.MonkeyPatch, leaders: tuple[int, int]
):
    monkeypatch.setattr(simplex, "verify_justification", allow(lambda parent, why: parent == len(why.notarised) == 1))
    with pytest.raises(Violation, match="two blocks are decided"):
        Search(leaders, is_late=False).run()


def allow(is_allowed: Callable[[int, Justification], bool]) -> Callable[[Proposal], None]:
    """What takes some proposals of the second view unseen, by the view they repeat and their justification."""

    def verify(proposal: Proposal) -> None:
        if proposal.ballot.view == 1 or not is_allowed(proposal.ballot.parent, proposal.why):
            verify_justification(proposal)

    return verify
