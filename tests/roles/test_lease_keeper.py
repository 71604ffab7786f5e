"""A storage node's part in leases, event by event."""

from dataclasses import replace

import pytest

from protocol.audit import Contents, answer_audit
from protocol.keys import PrivateKey
from protocol.ledger.lease_audits import AnswerAudit, get_drawn
from protocol.ledger.leases import KeepBlob, OfferSpace, compute_shortfall, is_running_out
from roles.lease_keeper import BUCKET, MARGIN_MS, OFFER_AGAIN_MS, PIN_NAME, STALE_MS, LeaseKeeper
from roles.role import Effect, Gather, Gathered, LetGo, Prove, Proven, Record, SetTimer, Store, Submit, Submitted
from tests.support.leases import PRICE, ROOM, Blob, Leases

BLOB = Blob(bytes(range(256)) * 200, chunk=10_000)
CID = str(BLOB.cid)


class Kept:
    """One lease of factor 1 on a ledger, and the keeper of the node it is offered to."""

    def __init__(self, renews: int = 0, terms: int = 1) -> None:
        self.net = Leases(stores=3)
        self.key = self.net.open(BLOB, factor=1, periods=4, renews=renews, terms=terms)
        (self.account,) = self.net.list_offered(self.key)
        self.keeper = LeaseKeeper(self.account, ROOM, PRICE)
        self.log: list[Effect] = []

    @property
    def now_ms(self) -> int:
        return self.net.ledger.state.time_ms + 5

    @property
    def token(self) -> str:
        return self.key.hex()

    def look(self) -> list[Effect]:
        return self.keeper.on_ledger(self.net.ledger.state, self.now_ms)

    def gathered(self, error: str = "") -> list[Effect]:
        return self.keeper.on_gathered(Gathered(CID, 5, BLOB.contents.size_bytes, error), self.net.ledger.state)

    def proven(self, what: str, contents: Contents | None = None, error: str = "") -> list[Effect]:
        lease = self.net.ledger.state.leases[self.key]
        drawn = get_drawn(self.key, lease, self.account) if what == "answer" else ()
        answer = answer_audit(BLOB.tree, drawn, BLOB.read) if not error else ()
        event = Proven(f"{what}:{self.token}", contents, answer, error)
        return self.keeper.on_proven(event, self.net.ledger.state)

    def send(self, effects: list[Effect]) -> None:
        """Have the ledger take what a keeper submits, and tell it so."""
        for effect in find(effects, Submit):
            self.net.ledger.do(self.net.account(self.account), effect.item)
            self.keeper.on_submitted(Submitted(effect.token, self.net.ledger.state.height))

    def accept(self) -> None:
        self.look()
        self.gathered()
        self.send(self.proven("take", BLOB.contents))
        self.net.ledger.block()
        self.look()


@pytest.fixture
def kept() -> Kept:
    return Kept()


def find(effects: list[Effect], kind: type) -> list:  # type: ignore[type-arg]
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_lease_that_is_offered_is_fetched_checked_and_accepted(kept: Kept) -> None:
    effects = kept.look()
    (gather,) = find(effects, Gather)
    assert (gather.cid, gather.name) == (CID, PIN_NAME)
    payer = kept.net.ledger.state.nodes[kept.net.payer.public].node
    own = kept.net.ledger.state.nodes[kept.account].node
    assert gather.peers[0] == payer
    assert own not in gather.peers
    assert Store(BUCKET, kept.key, BLOB.cid.pack()) in effects
    assert find(kept.look(), Gather) == []  # it is on its way

    assert kept.gathered() == [Prove(f"take:{kept.token}", CID, BLOB.contents.size_bytes)]
    effects = kept.proven("take", BLOB.contents)

    assert effects == [Submit(KeepBlob(kept.key, 1), f"take:{kept.token}")]
    kept.send(effects)
    assert kept.net.list_holding(kept.key) == [kept.account]
    assert find(kept.look(), Gather) == []
    assert kept.keeper.load == 0


@pytest.mark.parametrize("how", ["missing", "other contents", "unreadable", "late"])
def test_what_cannot_be_had_or_is_not_what_was_said_is_declined_and_let_go(kept: Kept, how: str) -> None:
    effects = kept.look()
    (timer,) = find(effects, SetTimer)
    assert timer.at_ms == kept.net.replica(kept.key, kept.account).deadline_ms - MARGIN_MS
    if how == "missing":
        effects = kept.gathered("nobody has it")
    elif how == "late":
        effects = kept.keeper.on_timer(timer.name, kept.net.ledger.state)
    else:
        kept.gathered()
        lie = replace(BLOB.contents, root=bytes(32))
        effects = kept.proven("take", lie) if how == "other contents" else kept.proven("take", None, "a node is none")

    assert Submit(KeepBlob(kept.key, 0), f"decline:{kept.token}") in effects
    assert Store(BUCKET, kept.key, None) in effects
    assert LetGo(CID, PIN_NAME) in effects
    assert find(kept.look(), Gather) == []  # not again, though the ledger has not heard of it yet
    kept.send(effects)
    assert kept.account not in kept.net.list_offered(kept.key)


def test_an_audit_is_answered_with_what_it_asks_for(kept: Kept) -> None:
    kept.accept()
    kept.net.ask(kept.key)
    (prove,) = find(kept.look(), Prove)
    assert prove.indices == get_drawn(kept.key, kept.net.find(kept.key), kept.account)
    assert find(kept.look(), Prove) == []  # it is being read

    effects = kept.proven("answer", BLOB.contents)

    (submit,) = find(effects, Submit)
    assert isinstance(submit.item, AnswerAudit)
    kept.send(effects)
    assert not kept.net.replica(kept.key, kept.account).is_asked


def test_what_is_missing_for_an_audit_is_fetched_from_the_others_and_shown(kept: Kept) -> None:
    kept.accept()
    kept.net.ask(kept.key)
    kept.look()

    effects = kept.proven("answer", None, "a block is missing")

    assert find(effects, Gather)
    assert find(kept.gathered(), Prove)
    assert find(kept.proven("answer", None, "still missing"), Gather) == []
    assert find(kept.proven("answer", BLOB.contents), Submit)


def test_a_refused_answer_is_given_again_while_the_audit_waits_for_it(kept: Kept) -> None:
    kept.accept()
    kept.net.ask(kept.key)
    kept.look()
    kept.proven("answer", BLOB.contents)

    kept.keeper.on_submitted(Submitted(f"answer:{kept.token}", None, "a full block"))

    assert find(kept.look(), Prove)


def test_a_lease_that_runs_out_of_money_is_told_once_and_again_after_its_payer_has_added_too_little() -> None:
    kept = Kept(renews=1)
    kept.look()
    kept.gathered()
    kept.send(kept.proven("take", BLOB.contents))
    [told] = find(kept.look(), Record)
    lease = kept.net.find(kept.key)
    short = compute_shortfall(lease, kept.net.params)
    assert (told.name, told.fields["audits_left"], told.fields["short_grains"]) == ("lease.runs_out", 4, short)
    assert find(kept.look(), Record) == []

    kept.net.ledger.do(kept.net.payer, replace(kept.net.terms(BLOB, 1, 4, renews=1), amount=short))

    assert not is_running_out(kept.net.find(kept.key), kept.net.params)
    assert find(kept.look(), Record) == []
    dearer = replace(kept.net.terms(BLOB, 1, 5, renews=1), amount=0)  # longer terms
    kept.net.ledger.do(kept.net.payer, dearer)
    assert [told.name for told in find(kept.look(), Record)] == ["lease.runs_out"]


def test_an_ended_lease_is_let_go_unless_another_is_about_the_same(kept: Kept) -> None:
    kept.accept()
    for _ in range(4):
        kept.net.audit(kept.key, BLOB)
    effects = kept.look()
    assert LetGo(CID, PIN_NAME) in effects
    assert Store(BUCKET, kept.key, None) in effects

    twice = Kept()
    twice.keeper.start({twice.key: BLOB.cid.pack(), bytes(32): BLOB.cid.pack()})
    effects = twice.look()
    assert Store(BUCKET, bytes(32), None) in effects
    assert find(effects, LetGo) == []


def test_what_comes_after_its_lease_has_gone_is_let_go(kept: Kept) -> None:
    assert kept.gathered() == [LetGo(CID, PIN_NAME)]


def test_after_a_crash_the_ledger_says_what_is_to_be_done(kept: Kept) -> None:
    kept.accept()
    kept.net.ask(kept.key)
    again = LeaseKeeper(kept.account, ROOM, PRICE)
    again.start({kept.key: BLOB.cid.pack()})
    assert find(again.on_ledger(kept.net.ledger.state, kept.now_ms), Prove)


def test_after_its_bucket_was_lost_a_node_keeps_what_the_ledger_says_it_keeps(kept: Kept) -> None:
    kept.accept()
    kept.keeper = LeaseKeeper(kept.account, ROOM, PRICE)
    kept.keeper.start({})

    effects = kept.look()

    assert Store(BUCKET, kept.key, BLOB.cid.pack()) in effects
    (gather,) = find(effects, Gather)
    assert (gather.cid, gather.name) == (CID, PIN_NAME)
    assert find(kept.look(), Gather) == []  # it is on its way
    assert kept.gathered() == []  # and stays
    kept.net.ask(kept.key)
    assert find(kept.look(), Prove)
    kept.proven("answer", None, "a block is missing")
    assert find(kept.gathered(), Prove)


def test_nothing_is_let_go_of_by_a_ledger_that_lies_behind(kept: Kept) -> None:
    before = kept.net.ledger.state
    kept.accept()

    late = kept.now_ms + STALE_MS
    effects = kept.keeper.on_ledger(replace(before, leases={}), late)

    assert find(effects, LetGo) == find(effects, Store) == []
    assert find(kept.keeper.on_ledger(replace(kept.net.ledger.state, leases={}), kept.now_ms), LetGo)


def test_history_is_not_acted_upon(kept: Kept) -> None:
    assert find(kept.keeper.on_ledger(kept.net.ledger.state, kept.now_ms + STALE_MS), Gather) == []


def test_room_is_let_as_the_operator_wants_and_again_after_it_was_found_silent(kept: Kept) -> None:
    state = kept.net.ledger.state
    assert find(kept.look(), Submit) == []
    other = LeaseKeeper(kept.account, ROOM, PRICE + 1)
    assert other.on_ledger(state, kept.now_ms)[0] == Submit(OfferSpace(ROOM, PRICE + 1), "offer")
    assert find(other.on_ledger(state, kept.now_ms + 1), Submit) == []  # it is on its way
    assert find(other.on_ledger(state, kept.now_ms + OFFER_AGAIN_MS), Submit)
    retiring = LeaseKeeper(kept.account, 0, PRICE)
    assert Submit(OfferSpace(0, PRICE), "offer") in retiring.on_ledger(state, kept.now_ms)
    nothing = LeaseKeeper(kept.account, 0, PRICE)
    assert find(nothing.on_ledger(replace(state, offers={}), kept.now_ms), Submit) == []
    stranger = LeaseKeeper(PrivateKey.from_seed(bytes(32)).public, ROOM, PRICE)
    assert find(stranger.on_ledger(state, kept.now_ms), Submit) == []

    kept.net.ledger.block(after_ms=kept.net.params.lease_accept_ms + 1_000)
    assert kept.net.ledger.state.offers[kept.account].is_silent
    assert Submit(OfferSpace(ROOM, PRICE), "offer") in kept.look()
