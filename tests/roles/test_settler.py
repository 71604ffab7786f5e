"""Leaves gather while a settlement is under way, unless there are enough for a full one: those go at once."""

import pytest

from protocol.ledger.state import State
from roles.batcher import Batcher
from roles.role import Effect, Submit
from roles.settler import SETTLE_MS, UNDER_WAY_MAX, Settler
from roles.workbook import Workbook
from tests.roles.test_admission import make_ledger
from tests.roles.test_workbook import finish, make_job, settle
from tests.support.core_parts import Parts

LEAVES = 3


@pytest.fixture(autouse=True)
def few_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.workbook.LEAVES_MAX", LEAVES)


def make_settler(jobs: int) -> tuple[Settler, Parts, State, bytes]:
    """A worker with so many attested jobs, the ledger that pays them, and their channel."""
    parts, state, channel, _ = make_ledger()
    book = Workbook()
    for seq in range(1, jobs + 1):
        job = make_job(parts, state, channel, seq)
        book.add(job)
        finish(book, job, parts, state)
    return Settler(book, Batcher(book, bytes(32))), parts, state, channel


def list_settled(effects: list[Effect]) -> list[tuple[str, range]]:
    """Tokens and numbers of the vouchers that are settled."""
    submitted = [effect for effect in effects if isinstance(effect, Submit)]
    runs = [(effect.token, effect.item.runs[0]) for effect in submitted]
    return [(token, range(run.seq_first, run.seq_first + len(run.leaves))) for token, run in runs]


def test_full_settlements_go_one_behind_the_other_and_what_is_left_once_all_are_there():
    settler, parts, state, channel = make_settler(2 * LEAVES + 1)

    effects = settler.on_tick(state, state.time_ms)

    assert [seqs for _, seqs in list_settled(effects)] == [range(1, 4), range(4, 7)]
    for effect in [effect for effect in effects if isinstance(effect, Submit)]:
        state = settle(parts, state, effect.item)
        effects = settler.on_submitted(effect.token, "", state, state.time_ms)
        is_last = state.channels[channel].settled_seq == 2 * LEAVES
        assert [seqs for _, seqs in list_settled(effects)] == ([range(7, 8)] if is_last else [])


def test_no_more_are_under_way_than_an_account_can_send():
    settler, _, state, _ = make_settler(LEAVES * (UNDER_WAY_MAX + 2))

    assert len(list_settled(settler.on_tick(state, state.time_ms))) == UNDER_WAY_MAX
    assert not settler.on_tick(state, state.time_ms + SETTLE_MS)


def test_after_a_refusal_none_goes_until_all_that_were_behind_it_have_come_back_and_then_all_go_again():
    settler, _, state, _ = make_settler(3 * LEAVES)
    sent = list_settled(settler.on_tick(state, state.time_ms))
    now_ms = state.time_ms

    for token, _ in sent:
        now_ms += SETTLE_MS
        assert not list_settled(settler.on_tick(state, now_ms))
        assert not list_settled(settler.on_submitted(token, "InvalidLeaf: nonsense", state, now_ms))

    again = list_settled(settler.on_tick(state, now_ms + SETTLE_MS))
    assert [seqs for _, seqs in again] == [seqs for _, seqs in sent]
