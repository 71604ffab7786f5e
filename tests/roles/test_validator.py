"""Validators as roles, without a network: what they say to each other, fetch, keep and decide."""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from protocol.codec import decode, encode
from protocol.consensus.leaders import draw_leader
from protocol.consensus.log import decode_record
from protocol.consensus.messages import Vote
from protocol.keys import PrivateKey
from protocol.ledger.block import Certificate, VoteKind, get_validators
from protocol.ledger.genesis import build_state
from protocol.ledger.restart import apply_restart, make_terms
from protocol.ledger.restart_terms import Restart, sign_seat
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, Transfer
from protocol.messages import Accepted, DraftParts, GetDraft, Head, Refused, Said, Transactions
from roles.heads import HEAD_WAIT_MS
from roles.pace import BLOCK_INTERVAL_MS, GATHERING, REST_MIN_MS
from roles.role import (
    CatchUp,
    Context,
    Decided,
    Effect,
    Event,
    LedgerAdvanced,
    LogVote,
    Publish,
    Received,
    Record,
    Reply,
    Request,
    Requested,
    RequestFailed,
    Send,
    SetTimer,
    Started,
    Submit,
    TimerFired,
    VoteHistory,
)
from roles.speech import ACCEPTANCE_MS
from roles.validator import PATIENCE, VIEW_TIMER_MS, VIEW_TIMER_MS_MAX, Validator
from testnet.genesis import build_genesis
from tests.support.jobs import sign_transaction

START_MS = 1_700_000_000_000


class Cluster:
    """Validators on one table: what one sends arrives, in order, unless `is_lost` says otherwise. Time stands still
    while anything is under way."""

    def __init__(self, count: int = 4) -> None:
        self.foundation = build_genesis(3, {"validator": count}, now_ms=START_MS)
        self.genesis_state = build_state(self.foundation.genesis)
        self.now_ms = START_MS + 1_000
        self.names = [f"validator-{index}" for index in range(count)]
        self.states: dict[str, State] = dict.fromkeys(self.names, self.genesis_state)
        self.logs: dict[str, list[bytes]] = {name: [] for name in self.names}
        self.sent: list[tuple[str, str, Any]] = []
        self.asked: list[tuple[str, str]] = []  # to accept a word
        self.heads: list[Head] = []
        self.gossiped: list[tuple[str, Said]] = []
        self.is_gossiping = False  # what is lost is lost, unless a test is about gossip
        self.records: list[tuple[str, Record]] = []
        self.timers: dict[tuple[str, str], int] = {}
        self.is_lost: Callable[[str, str, Any], bool] = lambda source, target, message: False
        self.roles: dict[str, Validator] = {}
        self._queue: deque[tuple[str, Event]] = deque()
        self._certificates: dict[int, tuple[Decided, Certificate]] = {}
        for name in self.names:
            self.start(name)

    def key(self, name: str, purpose: str) -> PrivateKey:
        return PrivateKey.from_seed(getattr(self.foundation.nodes[name], purpose))

    def start(self, name: str, votes: VoteHistory | None = None) -> None:
        """A process of its own, with what its log holds."""
        keys = [self.key(name, purpose) for purpose in ("node", "account", "vote")]
        self.roles[name] = Validator(Context({}, keys[0], keys[1], random.Random(name), keys[2]))
        state = self.states[name]
        self.tell(name, Started(state, {}, VoteHistory(tuple(self.logs[name])) if votes is None else votes))

    def tell(self, name: str, event: Event) -> list[Effect]:
        """Hand a validator an event, and everybody what follows from it."""
        self._queue.append((name, event))
        first: list[Effect] = []
        while self._queue:
            target, what = self._queue.popleft()
            effects = self.roles[target].handle(what, self.now_ms)
            first = first or effects
            for effect in effects:
                self._carry(target, effect)
        return first

    def pass_time(self, duration_ms: int) -> None:
        """Let timers fire, in order."""
        end_ms = self.now_ms + duration_ms
        while due := sorted((at_ms, key) for key, at_ms in self.timers.items() if at_ms <= end_ms):
            at_ms, (name, timer) = due[0]
            del self.timers[name, timer]
            self.now_ms = max(self.now_ms, at_ms)
            self.tell(name, TimerFired(timer))
        self.now_ms = end_ms

    def pay(self, spare: int = 0, nonce: int | None = None) -> Transaction:
        payer = PrivateKey.from_seed(self.foundation.spare[spare])
        return sign_transaction(self.genesis_state, payer, Transfer(bytes([7]) * 32, 5), nonce)

    def submit(self, name: str, transaction: Transaction) -> list[Effect]:
        question = Transactions((encode(transaction),))
        effects = self.tell(name, Requested(bytes(32), question, "txs", "client"))
        self.pass_time(0)
        return effects

    def sync(self, name: str) -> None:
        """What the node around a validator does when it is behind: fetch decided blocks."""
        while (decided := self._certificates.get(self.states[name].height + 1)) is not None:
            self._advance(name, decided[0])
            self.tell(*self._queue.popleft())

    @property
    def leader(self) -> str:
        """Who leads the first view of the first height."""
        state = self.genesis_state
        vote = draw_leader(get_validators(state), state.epochs[0].seed, 1, 1)
        return next(name for name in self.names if self.key(name, "vote").public == vote)

    def _name(self, node: bytes) -> str:
        return next(name for name in self.names if self.key(name, "node").public == node)

    def _carry(self, name: str, effect: Effect) -> None:
        node = self.key(name, "node").public
        match effect:
            case Send(peer, protocol, message, token) | Request(peer, protocol, message, token):
                target = self._name(peer)
                if isinstance(message, Said) and token:
                    self.asked.append((name, target))
                self.sent.append((name, target, message))
                if self.is_lost(name, target, message):
                    self._queue += [(name, RequestFailed(peer, token, "lost"))] if token else []
                else:
                    self._queue.append((target, Requested(node, message, protocol, f"{name}|{token}")))
            case Reply(token, message) if "|" in token and not token.endswith("|"):
                asker, asked = token.split("|")
                self.sent.append((name, asker, message))
                self._queue.append((asker, Received(node, message, token=asked)))
            case LogVote(record):
                self.logs[name].append(record)
            case Submit(Decided() as decided):
                self._advance(name, decided)
            case CatchUp(peer):
                state = self.states[name]
                if self.states[self._name(peer)].height > state.height and state.height + 1 in self._certificates:
                    self._advance(name, self._certificates[state.height + 1][0])
            case SetTimer(timer, at_ms):
                self.timers[name, timer] = at_ms
            case Publish("heads", Head() as head):
                self.heads.append(head)
            case Publish("consensus", Said() as said):
                self.gossiped.append((name, said))
                others = (other for other in self.names if other != name)
                self._queue += [(other, Received(node, said, "consensus")) for other in others if self.is_gossiping]
            case Record():
                self.records.append((name, effect))

    def _advance(self, name: str, decided: Decided) -> None:
        header = decided.block.header
        assert header.height == self.states[name].height + 1
        known = self._certificates.setdefault(header.height, (decided, decided.certificate))
        assert known[0].block == decided.block, "a fork"
        self.states[name] = decided.state
        items = tuple(decode_transaction(data) for data in decided.block.transactions)
        self._queue.append((name, LedgerAdvanced(decided.state, items, decided.certificate)))


def decode_transaction(data: bytes) -> Transaction:
    return decode(Transaction, data)


def list_heights(cluster: Cluster) -> list[int]:
    return [cluster.states[name].height for name in cluster.names]


@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_transaction_given_to_any_validator_is_decided_by_all_and_then_all_sleep(count: int) -> None:
    for name in Cluster(count).names:
        cluster = Cluster(count)
        cluster.submit(name, cluster.pay())
        cluster.pass_time(0)
        assert list_heights(cluster) == [1] * count
        assert len({state.block_id for state in cluster.states.values()}) == 1
        assert cluster.states[name].get_balance(bytes([7]) * 32) == 5
        assert len(cluster.heads) == 1
        logged = [len(log) for log in cluster.logs.values()]
        cluster.pass_time(3_600_000)
        assert list_heights(cluster) == [1] * count
        assert [len(log) for log in cluster.logs.values()] == logged


def list_words(cluster: Cluster, kind: str) -> list[tuple[str, str]]:
    """Who said something of this kind to whom."""
    words = ((source, target, said) for source, target, said in cluster.sent if isinstance(said, Said))
    return [(source, target) for source, target, said in words if getattr(said, kind)]


def test_a_validator_wakes_the_leader_alone_and_the_leader_everybody() -> None:
    cluster = Cluster()
    name = next(name for name in cluster.names if name != cluster.leader)

    cluster.submit(name, cluster.pay())

    assert list_words(cluster, "causes") == [(name, cluster.leader)]
    assert list_heights(cluster) == [1] * 4


def test_a_cause_that_the_leader_has_not_taken_up_goes_to_all() -> None:
    cluster = Cluster()
    leader = cluster.leader
    name = next(name for name in cluster.names if name != leader)
    cluster.is_lost = lambda source, target, message: leader in (source, target)

    cluster.submit(name, cluster.pay())
    assert set(list_words(cluster, "causes")) == {(name, leader)}
    cluster.pass_time(20_000)

    assert set(list_words(cluster, "causes")) > {(name, other) for other in cluster.names if other != name}
    assert [cluster.states[other].height for other in cluster.names if other != leader] == [1] * 3


@pytest.mark.parametrize("is_heard", [True, False])
def test_the_next_validator_speaks_of_a_decided_head_when_the_leader_is_not_heard(is_heard: bool) -> None:
    cluster = Cluster()
    cluster.submit(cluster.leader, cluster.pay())
    (head,) = cluster.heads
    if is_heard:
        for name in cluster.names:
            cluster.tell(name, Received(bytes(32), head, "heads"))

    cluster.pass_time(HEAD_WAIT_MS)

    assert [item.header for item in cluster.heads] == [head.header] * (1 if is_heard else 2)


def find_delay_ms(cluster: Cluster, name: str, timer: str, transaction: Transaction) -> int:
    """When a validator that is given a transaction wants to be woken, from now, in its own time."""
    question = Transactions((encode(transaction),))
    effects = cluster.roles[name].handle(Requested(bytes(32), question, "txs", "client"), cluster.now_ms)
    if timer == "view":
        cluster.now_ms += BLOCK_INTERVAL_MS
        effects = cluster.roles[name].handle(TimerFired("wake"), cluster.now_ms)
    return next(effect.at_ms for effect in effects if isinstance(effect, SetTimer) and effect.name == timer) - (
        cluster.now_ms
    )


def decide_late(cluster: Cluster) -> tuple[str, int]:
    """A height whose first leader is silent: a validator that decided it, and how long that took it."""
    leader = cluster.leader
    name = next(name for name in cluster.names if name != leader)
    cluster.is_lost = lambda source, target, message: leader in (source, target)
    begun_ms = cluster.now_ms
    cluster.submit(name, cluster.pay())
    while not cluster.states[name].height:
        assert cluster.now_ms < begun_ms + 20_000
        cluster.pass_time(10)
    return name, cluster.now_ms - begun_ms


def test_a_validator_rests_after_a_block_as_long_as_it_took_within_bounds() -> None:
    quick, slow = Cluster(), Cluster()
    quick.submit("validator-0", quick.pay())
    assert find_delay_ms(quick, "validator-0", "wake", quick.pay(nonce=1)) == REST_MIN_MS

    name, _ = decide_late(slow)
    assert find_delay_ms(slow, name, "wake", slow.pay(nonce=1)) == BLOCK_INTERVAL_MS


def test_a_crowd_is_not_made_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.pace.CROWD", 2)
    cluster = Cluster()
    name, _ = decide_late(cluster)
    assert find_delay_ms(cluster, name, "wake", cluster.pay(nonce=1)) == BLOCK_INTERVAL_MS
    assert find_delay_ms(cluster, name, "wake", cluster.pay(nonce=2)) == 0


@pytest.mark.parametrize("count", [1, 4])
def test_what_nobody_waits_for_gathers_for_longer_and_goes_with_what_somebody_waits_for(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    cluster = Cluster(count)
    cluster.submit("validator-0", cluster.pay())
    transfer, settlement = cluster.pay(spare=1), cluster.pay(nonce=1)
    monkeypatch.setattr("roles.mempool.is_waited_for", lambda transaction: transaction.id != settlement.id)

    rest_ms = REST_MIN_MS if count > 1 else BLOCK_INTERVAL_MS
    for name in cluster.names:
        assert find_delay_ms(cluster, name, "wake", settlement) == GATHERING * BLOCK_INTERVAL_MS
    assert find_delay_ms(cluster, "validator-0", "wake", transfer) == rest_ms
    cluster.submit("validator-0", transfer)
    cluster.pass_time(rest_ms)
    assert [cluster.states[name].height for name in cluster.names] == [2] * count
    assert not any(len(cluster.roles[name]._pool) for name in cluster.names), "both in one block"


def test_a_validator_that_decides_alone_rests_as_long_as_it_may() -> None:
    cluster = Cluster(1)
    cluster.submit("validator-0", cluster.pay())
    assert cluster.states["validator-0"].height == 1
    assert find_delay_ms(cluster, "validator-0", "wake", cluster.pay(nonce=1)) == BLOCK_INTERVAL_MS


def test_a_leader_is_given_more_time_while_heights_take_long() -> None:
    quick, slow = Cluster(), Cluster()
    quick.submit("validator-0", quick.pay())
    assert find_delay_ms(quick, "validator-0", "view", quick.pay(nonce=1)) == VIEW_TIMER_MS

    name, took_ms = decide_late(slow)
    assert took_ms >= VIEW_TIMER_MS
    wanted_ms = min(PATIENCE * took_ms, VIEW_TIMER_MS_MAX)
    assert abs(find_delay_ms(slow, name, "view", slow.pay(nonce=1)) - wanted_ms) <= PATIENCE * 10


def test_bodies_that_a_validator_lacks_are_fetched_from_whoever_has_them() -> None:
    cluster = Cluster()
    cluster.is_lost = lambda source, target, message: isinstance(message, Said) and bool(message.causes)
    cluster.submit(cluster.leader, cluster.pay(nonce=1))
    cluster.submit(cluster.leader, cluster.pay(1, nonce=1))
    cluster.submit(cluster.leader, cluster.pay())
    assert list_heights(cluster) == [1] * 4
    asked = [message for _, _, message in cluster.sent if isinstance(message, GetDraft)]
    assert asked
    assert {len(message.digests) for message in asked} == {2}


def test_a_leader_that_keeps_the_bodies_to_itself_gets_no_votes_and_the_next_one_proposes() -> None:
    cluster = Cluster()
    leader = cluster.leader
    cluster.roles[leader]._fetching.pick_bodies = lambda *_: ()  # type: ignore[method-assign]
    cluster.is_lost = lambda source, target, message: (
        leader in (source, target) and isinstance(message, Said) and bool(message.causes)
    )
    others = [name for name in cluster.names if name != leader]
    cluster.submit(leader, cluster.pay())
    assert list_heights(cluster) == [0] * 4
    cluster.submit(others[0], cluster.pay(1))
    cluster.pass_time(20_000)
    assert [cluster.states[name].height for name in others] == [1, 1, 1]
    assert cluster.states[others[0]].get_nonce(cluster.pay(1).account) == 1


def test_a_validator_that_heard_no_proposal_fetches_the_block_that_was_decided() -> None:
    cluster = Cluster()
    deaf = next(name for name in cluster.names if name != cluster.leader)
    cluster.is_lost = lambda source, target, message: (
        target == deaf and isinstance(message, Said) and bool(message.proposed or message.causes)
    )
    cluster.submit(cluster.leader, cluster.pay())
    cluster.pass_time(3_000)
    assert list_heights(cluster) == [1] * 4


@pytest.mark.parametrize("is_gossiping", [True, False])
def test_validators_that_cannot_reach_a_quorum_directly_speak_by_gossip(is_gossiping: bool) -> None:
    cluster = Cluster()
    cluster.is_gossiping = is_gossiping
    cluster.is_lost = lambda source, target, message: isinstance(message, Said)
    cluster.submit("validator-0", cluster.pay())
    cluster.pass_time(20_000)
    assert list_heights(cluster) == [1 if is_gossiping else 0] * 4
    assert cluster.gossiped
    cluster.is_lost = lambda source, target, message: False
    cluster.is_gossiping = True
    cluster.submit("validator-1", cluster.pay(1))
    cluster.pass_time(20_000)
    heights, count = list_heights(cluster), len(cluster.gossiped)
    cluster.submit("validator-2", cluster.pay(2))
    cluster.pass_time(20_000)
    assert list_heights(cluster) == [height + 1 for height in heights]
    assert len(cluster.gossiped) == count  # everybody hears again


def test_one_dead_validator_of_four_makes_nobody_gossip() -> None:
    cluster = Cluster()
    cluster.is_lost = lambda source, target, message: "validator-3" in (source, target)
    for spare in range(3):
        cluster.submit("validator-0", cluster.pay(spare))
        cluster.pass_time(10_000)
    assert list_heights(cluster)[:3] == [3, 3, 3]
    assert not [name for name, said in cluster.gossiped if name != "validator-3"]  # it alone is cut off


def test_one_of_four_may_be_down_and_two_may_not() -> None:
    for dead, height in ((1, 1), (2, 0)):
        cluster = Cluster()
        gone = set(cluster.names[:dead])
        cluster.is_lost = lambda source, target, message, gone=gone: bool(gone & {source, target})  # type: ignore[misc]
        cluster.submit("validator-3", cluster.pay())
        cluster.pass_time(20_000)
        assert [cluster.states[name].height for name in cluster.names if name not in gone] == [height] * (4 - dead)
        cluster.is_lost = lambda source, target, message: False
        for name in gone:
            cluster.sync(name)
        cluster.submit("validator-2", cluster.pay(1))
        cluster.pass_time(10_000)
        assert set(list_heights(cluster)) < {1, 2}
        assert cluster.states["validator-0"].get_balance(bytes([7]) * 32) == 10


def test_after_a_crash_a_validator_repeats_its_votes_and_casts_no_other() -> None:
    cluster = Cluster()
    alone = "validator-0"
    cluster.is_lost = lambda source, target, message: alone in (source, target)
    cluster.submit(alone, cluster.pay())
    cluster.pass_time(700)
    before = list(cluster.logs[alone])
    cluster.start(alone)
    cluster.pass_time(700)
    votes = [record for data in cluster.logs[alone] if isinstance(record := decode_record(data), Vote)]
    assert cluster.logs[alone][: len(before)] == before
    assert len({(vote.ballot.view, vote.ballot.kind) for vote in votes}) == len(votes)
    cluster.is_lost = lambda source, target, message: False
    cluster.submit("validator-1", cluster.pay())
    cluster.pass_time(10_000)
    assert list_heights(cluster) == [1] * 4


def test_a_validator_whose_ledger_was_put_back_holds_itself_to_what_it_voted_for_since() -> None:
    cluster = Cluster()
    alone = "validator-0"
    cluster.submit("validator-1", cluster.pay())
    cluster.pass_time(1_000)
    cluster.is_lost = lambda source, target, message: alone in (source, target)
    cluster.submit(alone, cluster.pay(1))
    cluster.pass_time(700)
    before = [vote for vote in list_votes(cluster, alone) if vote.ballot.height == 2]
    assert {vote.ballot.kind for vote in before} == {VoteKind.NULLIFY}

    # Its database is put back to where it was before all this, its vote log is as it was.
    cluster.timers = {key: at for key, at in cluster.timers.items() if key[0] != alone}
    cluster.states[alone] = cluster.genesis_state
    cluster.start(alone)
    cluster.sync(alone)
    assert cluster.states[alone].height == 1
    cluster.is_lost = lambda source, target, message: False
    cluster.submit("validator-2", cluster.pay(2))
    cluster.pass_time(10_000)
    assert list_heights(cluster) == [2] * 4
    signed = [vote.ballot for vote in list_votes(cluster, alone) if vote.ballot.height == 2]
    nullified = {ballot.view for ballot in signed if ballot.kind == VoteKind.NULLIFY}
    finalised = {ballot.view for ballot in signed if ballot.kind == VoteKind.FINALISE}
    assert not nullified & finalised
    assert not [record for _, record in cluster.records if record.name == "validator.accused"]


def list_votes(cluster: Cluster, name: str) -> list[Vote]:
    return [record for data in cluster.logs[name] if isinstance(record := decode_record(data), Vote)]


def test_a_block_is_in_the_log_before_the_vote_for_it_so_that_no_power_cut_loses_a_decided_one() -> None:
    cluster = Cluster()
    cluster.is_lost = lambda source, target, message: (
        isinstance(message, Said) and any(vote.ballot.kind == 2 for vote in message.votes)
    )
    cluster.submit("validator-0", cluster.pay())
    assert list_heights(cluster) == [0] * 4
    # All at once: nobody has the block anywhere but in its log, nor hears one that has not lost its memory yet.
    cluster.is_lost = lambda source, target, message: True
    cluster.timers.clear()
    for name in cluster.names:
        cluster.start(name)
    cluster.is_lost = lambda source, target, message: False
    cluster.pass_time(10_000)
    assert list_heights(cluster) == [1] * 4
    assert cluster.states["validator-0"].get_balance(bytes([7]) * 32) == 5


def test_after_a_lost_log_a_validator_is_silent_until_the_next_height_is_decided() -> None:
    cluster = Cluster()
    cluster.start("validator-2", VoteHistory((), is_lost=True))
    cluster.pass_time(1_000)
    cluster.submit("validator-0", cluster.pay())
    cluster.pass_time(3_000)
    assert list_heights(cluster) == [1] * 4
    assert cluster.logs["validator-2"] == []
    cluster.submit("validator-0", cluster.pay(1))
    cluster.pass_time(3_000)
    assert list_heights(cluster) == [2] * 4
    assert cluster.logs["validator-2"]
    assert [record.name for name, record in cluster.records if name == "validator-2"][:2] == [
        "votes.muted",
        "votes.unmuted",
    ]


def test_a_validator_whose_whole_disk_is_gone_waits_for_a_block_made_after_its_start() -> None:
    cluster = Cluster()
    cluster.submit("validator-0", cluster.pay())
    cluster.pass_time(1_000)
    old = cluster.states["validator-2"]
    cluster.states["validator-2"] = cluster.genesis_state
    cluster.start("validator-2", VoteHistory((), is_lost=True))
    cluster.logs["validator-2"].clear()
    cluster.sync("validator-2")
    assert cluster.states["validator-2"] == old
    cluster.pass_time(1_000)
    cluster.submit("validator-0", cluster.pay(1))
    cluster.pass_time(3_000)
    assert cluster.logs["validator-2"] == []
    assert cluster.states["validator-2"].height > old.height
    cluster.submit("validator-0", cluster.pay(2))
    cluster.pass_time(3_000)
    assert list_heights(cluster) == [3] * 4
    assert cluster.logs["validator-2"]


def test_what_strangers_say_moves_nobody_and_what_they_ask_is_answered() -> None:
    cluster = Cluster()
    cluster.submit("validator-0", cluster.pay())
    said = next(message for _, _, message in cluster.sent if isinstance(message, Said) and message.proposed)
    fresh = Cluster()
    for message in (said, Said((), (), (), said.causes)):
        effects = fresh.tell("validator-1", Requested(b"x" * 32, message, "consensus", "t"))
        assert effects == [Reply("t", Accepted())]
    draft = fresh.tell("validator-1", Requested(b"x" * 32, GetDraft(bytes(32), ()), "consensus", "t"))
    assert draft == [Reply("t", DraftParts((), ()))]
    [reply] = fresh.tell("validator-1", Requested(b"x" * 32, Accepted(), "consensus", "t"))
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Refused)


def test_a_transaction_that_cannot_be_included_yet_wakes_nobody() -> None:
    cluster = Cluster()
    [reply, *_] = cluster.submit("validator-0", cluster.pay(nonce=3))
    assert reply == Reply("client", Accepted())
    cluster.pass_time(10_000)
    assert list_heights(cluster) == [0] * 4
    assert all(not log for log in cluster.logs.values())


def test_validators_ask_each_other_for_an_answer_once_a_second_and_not_for_every_word() -> None:
    cluster = Cluster()
    began_ms = cluster.now_ms
    for spare in range(3):
        cluster.submit("validator-0", cluster.pay(spare))
        cluster.pass_time(100)
    assert list_heights(cluster) == [3] * 4
    words = [message for _, _, message in cluster.sent if isinstance(message, Said)]
    assert len(words) > 3 * len(cluster.asked)
    assert len(set(cluster.asked)) == len(cluster.asked) == 12  # each asked each other one once
    cluster.pass_time(began_ms + ACCEPTANCE_MS - cluster.now_ms)
    cluster.submit("validator-0", cluster.pay(3))
    cluster.pass_time(100)
    assert list_heights(cluster) == [4] * 4
    assert len(cluster.asked) == 24


@pytest.mark.parametrize("name", ["validator-0", "validator-3"])
def test_who_has_no_seat_in_a_restart_is_silent_at_its_height(name: str) -> None:
    """Nor does one speak that has a seat and still runs with its former key. What they had said before stays unsaid."""
    cluster = Cluster()
    cluster.is_lost = lambda source, target, message: True
    cluster.submit(name, cluster.pay())
    cluster.pass_time(5_000)
    assert cluster.logs[name]
    accounts = {cluster.key(each, "account").public: each for each in cluster.names[:3]}
    votes = {account: PrivateKey.from_seed(each.ljust(32).encode()) for account, each in accounts.items()}
    terms = make_terms(cluster.genesis_state, 1, {account: vote.public for account, vote in votes.items()})
    signatures = (sign_seat(terms, cluster.key(accounts[each], "account"), votes[each]) for each in sorted(accounts))
    cluster.states[name] = apply_restart(cluster.genesis_state, Restart(terms, tuple(signatures)))
    logged, said = len(cluster.logs[name]), len(cluster.sent)
    cluster.start(name)
    cluster.submit(name, cluster.pay())
    cluster.pass_time(5_000)
    assert len(cluster.logs[name]) == logged
    assert not [words for _, _, words in cluster.sent[said:] if isinstance(words, Said) and words.votes]
