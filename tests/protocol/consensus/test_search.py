"""All that can happen to four validators, one of them a liar, in one view; in two of them for `make test-full`."""

import pytest

from protocol.consensus.tally import Tally
from tests.protocol.consensus import search
from tests.protocol.consensus.search import LIAR, Search, Violation


@pytest.fixture
def one_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "VIEWS", 1)


@pytest.mark.usefixtures("one_view")
@pytest.mark.parametrize(("leader", "crashes"), [(0, 0), (0, 1), (LIAR, 0)])
def test_in_one_view_validators_cannot_disagree(leader: int, crashes: int):
    found = Search((leader, 1), crashes)
    found.run()
    assert found.states > 500


@pytest.mark.full
@pytest.mark.timeout(900)
def test_in_two_views_with_honest_leaders_validators_cannot_disagree():
    found = Search((0, 1))
    found.run()
    assert found.states > 100_000


@pytest.mark.usefixtures("one_view")
def test_the_search_finds_how_validators_disagree_when_a_quorum_is_too_small(monkeypatch: pytest.MonkeyPatch):
    begin = Tally.__init__

    def begin_with_less(tally: Tally, weights: dict[bytes, int]) -> None:
        begin(tally, weights)
        tally._total //= 2  # two of four are a quorum then

    monkeypatch.setattr(Tally, "__init__", begin_with_less)
    with pytest.raises(Violation, match="two blocks are"):
        Search((LIAR, 0)).run()


@pytest.mark.usefixtures("one_view")
def test_the_search_finds_how_validators_disagree_when_they_forget_their_votes(monkeypatch: pytest.MonkeyPatch):
    begin = Search._begin
    monkeypatch.setattr(Search, "_begin", lambda found, number, log: begin(found, number, ()))
    with pytest.raises(Violation, match="two blocks are"):
        Search((LIAR, 0), crashes_max=1).run()
