"""What gossip lost is asked for in few bytes, judged as gossip is, and given to nobody without bound."""

import random

import pytest

from protocol.codec import encode
from protocol.jobs import Attestation, ClaimedWork
from protocol.keys import PrivateKey
from protocol.ledger.transactions import Transfer
from protocol.messages import GOSSIP_LIST_MAX, Attestations, Claims, Missed, MissedItem, Transactions
from protocol.signing import sign
from protocol.sketch import SALT_SIZE, build_filter, find_missing
from protocol.types import Verdict
from roles.backlog import ANSWER_BYTES_MAX, KEPT_BYTES_MAX, KEPT_MAX, KEPT_MS, UNFIT_AGAIN_MS
from roles.core_effects import Log, NetPenalise, NetRequest, Wake
from roles.courier import Courier
from roles.mailbox import Mailbox
from roles.pull import ANSWERS_MAX, ANSWERS_MS, ANSWERS_PER_PEER_MAX, FULL_EVERY, PAUSE_MS_MAX, PAUSE_MS_MIN, Puller
from tests.support.core_parts import make_parts
from tests.support.jobs import get_keys, make_receipt, make_request, pay, sign_transaction
from tests.support.verdicts import settle

PARTS = make_parts()
LEDGER = PARTS.state
CHAIN = LEDGER.chain
NOW_MS = LEDGER.time_ms + 1_000
VERIFIER = get_keys(PARTS.foundation, "verifier-0")[0]
PEER, OTHER = b"p" * 32, b"q" * 32
SALT = bytes(SALT_SIZE)


def make_puller(topics=("proofs", "claims", "node"), seed=1, key=None):
    mailbox = Mailbox(key or PARTS.node, CHAIN, boot=1)
    return Puller(topics, mailbox, Courier(mailbox, CHAIN), random.Random(seed))


def attest(number, key=VERIFIER):
    claim_id = number.to_bytes(32, "big")
    return Attestations((sign(Attestation(claim_id, key.public, b"v" * 32, b"", bytes(64)), key),))


def seal(message, key=VERIFIER, at_ms=NOW_MS):
    return Mailbox(key, CHAIN, boot=1).seal(message, at_ms)


def spoil(wire):
    return wire[:-1] + bytes([wire[-1] ^ 1])


def check(mailbox, wire, ledger):
    return settle(mailbox.check("proofs", wire, lambda: ledger, NOW_MS))


def ask(puller, peers=(PEER,), now_ms=NOW_MS):
    for peer in peers:
        puller.note_up(peer, now_ms)
    return next(out for out in puller.on_timer(True, now_ms) if isinstance(out, NetRequest))


def answer(puller, *items, left=0, tip=0, peer=PEER, now_ms=NOW_MS):
    return puller.on_answer(peer, Missed(tip, left, items), LEDGER, now_ms)


def exchange(holder, asker, now_ms=NOW_MS, since_ms=0, salt=SALT):
    """What a holder gives an asker, as topic and envelope."""
    return holder.backlog.answer(asker.backlog.ask(("proofs",), since_ms, salt, now_ms), 0, now_ms)


def test_a_filter_holds_what_was_put_in_and_seldom_anything_else():
    names = [number.to_bytes(16, "big") for number in range(1_000)]
    found = build_filter(SALT, names)

    assert find_missing(found, SALT, names) == []
    others = [number.to_bytes(16, "big") for number in range(10_000, 30_000)]
    wrong = len(others) - len(find_missing(found, SALT, others))
    assert wrong < 20_000 / 50
    assert len(found) == 1_250


def test_what_one_salt_hides_the_next_one_shows():
    names = [number.to_bytes(16, "big") for number in range(200)]
    missing = [number.to_bytes(16, "big") for number in range(10_000, 12_000)]
    salts = [bytes([number]) * SALT_SIZE for number in range(4)]
    filters = [(build_filter(salt, names), salt) for salt in salts]

    hidden = [name for name in missing if not any(find_missing(found, salt, [name]) for found, salt in filters)]

    assert hidden == []


def test_what_is_missing_is_given_judged_and_handed_over_once():
    holder, asker = make_puller(key=VERIFIER), make_puller()
    holder.keep_own("proofs", seal(attest(1)), NOW_MS)
    ask(asker)

    out, found = answer(asker, *exchange(holder, asker).items)

    assert [(pulled.sender, pulled.topic, pulled.message) for pulled in found] == [
        (VERIFIER.public, "proofs", attest(1))
    ]
    assert [effect.fields["messages"] for effect in out if isinstance(effect, Log)] == [1]
    assert exchange(holder, asker).items == ()
    ask(asker)
    assert answer(asker, MissedItem("proofs", seal(attest(1))))[1] == []  # it is here, whatever it is told again


def test_a_repetition_in_a_new_envelope_is_not_missed():
    holder, asker = make_puller(), make_puller()
    asker.keep_own("proofs", seal(attest(1)), NOW_MS)
    holder.keep_own("proofs", seal(attest(1), at_ms=NOW_MS + 2_000), NOW_MS + 2_000)

    assert exchange(holder, asker, NOW_MS + 2_000).items == ()


def test_only_topics_that_must_arrive_and_were_asked_for_are_served():
    holder, asker = make_puller(), make_puller(topics=("proofs",))
    holder.keep_own("proofs", seal(attest(1)), NOW_MS)
    holder.keep_own("txs", seal(transfer(1), PARTS.node), NOW_MS)

    assert [item.topic for item in exchange(holder, asker).items] == ["proofs"]
    assert len(holder.backlog) == 2
    assert make_puller(topics=("node", "heads"))._topics == ()


def transfer(nonce):
    payer = PARTS.account
    body = Transfer(payer.public, 1)
    return Transactions((encode(sign_transaction(LEDGER, payer, body, nonce)),))


@pytest.mark.parametrize(
    ("item", "is_blamed"),
    [
        (MissedItem("proofs", b"junk"), True),
        (MissedItem("proofs", spoil(seal(attest(1)))), True),
        (MissedItem("txs", seal(transfer(1), PARTS.node)), True),  # not asked for
        (MissedItem("txs", seal(attest(1))), True),  # neither asked for nor carried there
        (MissedItem("claims", seal(attest(1))), True),  # not carried there
        (MissedItem("proofs", seal(attest(1, PrivateKey(b"x" * 32)), VERIFIER)), True),  # another's word
        (
            MissedItem("proofs", seal(attest(1, PrivateKey(b"x" * 32)), PrivateKey(b"x" * 32))),
            False,
        ),  # no verifier here
        (MissedItem("proofs", seal(attest(1), at_ms=NOW_MS - KEPT_MS)), False),  # expired
        (MissedItem("proofs", seal(attest(1), at_ms=NOW_MS + 60_000)), False),  # from the future
    ],
)
def test_what_gossip_would_refuse_is_refused_and_only_what_all_see_as_wrong_is_blamed(item, is_blamed):
    puller = make_puller()
    ask(puller)

    out, found = answer(puller, item)

    assert found == []
    assert [effect.peer for effect in out if isinstance(effect, NetPenalise)] == [PEER] * is_blamed


def test_what_was_not_taken_is_left_alone_for_a_while_and_then_tried_again():
    stranger = PrivateKey(b"x" * 32)
    holder, asker = make_puller(), make_puller()
    holder.keep_own("proofs", seal(attest(1, stranger), stranger), NOW_MS)
    ask(asker)
    answer(asker, *exchange(holder, asker).items)

    assert exchange(holder, asker).items == ()
    assert len(exchange(holder, asker, NOW_MS + UNFIT_AGAIN_MS).items) == 1


def test_a_message_ignored_by_gossip_may_still_be_pulled():
    """What a ledger behind could not judge is not lost: gossip shows it once, this path until it is over."""
    mailbox = Mailbox(PARTS.node, CHAIN, boot=1)
    wire = seal(attest(1))
    unknowing = make_parts(seed=2).state
    assert check(mailbox, wire, unknowing) is Verdict.IGNORE
    assert check(mailbox, wire, LEDGER) is Verdict.IGNORE

    assert mailbox.check_pulled("proofs", wire, LEDGER, KEPT_MS, NOW_MS)[0] == "accept"


def test_after_it_was_pulled_a_copy_by_gossip_is_not_taken_again():
    puller, wire = make_puller(), seal(attest(1))
    ask(puller)
    assert answer(puller, MissedItem("proofs", wire))[1]

    assert check(puller._mailbox, wire, LEDGER) is Verdict.IGNORE


def test_nothing_is_served_or_kept_beyond_its_own_time():
    backlog = make_puller()
    backlog.keep_own("txs", seal(transfer(0)), NOW_MS)  # valid for a minute of the ledger's time
    backlog.keep_own("proofs", seal(attest(1)), NOW_MS)

    backlog.backlog.ask((), 0, SALT, NOW_MS + 60_000)
    assert len(backlog.backlog) == 1
    backlog.backlog.ask((), 0, SALT, NOW_MS + KEPT_MS)
    assert len(backlog.backlog) == 0


def test_a_backlog_is_bounded_by_count_and_by_bytes():
    puller = make_puller()
    for number in range(KEPT_MAX + 5):
        puller.keep_own("proofs", seal(attest(number)), NOW_MS)
    assert len(puller.backlog) == KEPT_MAX

    crowded = make_puller()
    many = tuple(attest(number).items[0] for number in range(64))
    for number in range(KEPT_BYTES_MAX // 10_000):
        crowded.keep_own("proofs", seal(Attestations((*many[1:], attest(100 + number).items[0]))), NOW_MS)
    assert crowded.backlog.size_bytes <= KEPT_BYTES_MAX
    assert len(crowded.backlog) < KEPT_BYTES_MAX // 10_000


def test_an_answer_is_bounded_and_says_how_much_is_left():
    holder, asker = make_puller(), make_puller()
    for number in range(GOSSIP_LIST_MAX + 10):
        holder.keep_own("proofs", seal(attest(number)), NOW_MS)

    found = exchange(holder, asker)

    assert (len(found.items), found.left) == (GOSSIP_LIST_MAX, 10)


def test_an_answer_is_bounded_in_bytes_too():
    holder, asker = make_puller(), make_puller()
    many = tuple(attest(number).items[0] for number in range(GOSSIP_LIST_MAX - 1))
    envelopes = [seal(Attestations((*many, attest(1_000 + number).items[0]))) for number in range(GOSSIP_LIST_MAX)]
    for envelope in envelopes:
        holder.keep_own("proofs", envelope, NOW_MS)
    assert sum(map(len, envelopes)) > ANSWER_BYTES_MAX

    found = exchange(holder, asker)

    size_bytes = sum(len(item.envelope) for item in found.items)
    assert ANSWER_BYTES_MAX - len(envelopes[0]) < size_bytes <= ANSWER_BYTES_MAX
    assert len(found.items) + found.left == len(envelopes)


def test_whoever_has_more_is_asked_again_at_once():
    puller = make_puller()
    ask(puller)

    out, _ = answer(puller, MissedItem("proofs", seal(attest(1))), left=3)

    assert [effect.peer for effect in out if isinstance(effect, NetRequest)] == [PEER]


def test_one_who_says_more_is_left_but_gives_nothing_new_is_not_asked_again():
    puller = make_puller()
    ask(puller)

    out, _ = answer(puller, left=1_000)

    assert not any(isinstance(effect, NetRequest) for effect in out)


def test_who_asks_too_often_hears_only_our_height_until_a_second_is_over():
    holder, asker = make_puller(), make_puller()
    holder.keep_own("proofs", seal(attest(1)), NOW_MS)
    question = asker.backlog.ask(("proofs",), 0, SALT, NOW_MS)

    counts = [len(holder.answer(PEER, question, 7, NOW_MS).items) for _ in range(ANSWERS_PER_PEER_MAX + 2)]

    assert counts == [1] * ANSWERS_PER_PEER_MAX + [0, 0]
    assert holder.answer(PEER, question, 7, NOW_MS).tip == 7
    assert len(holder.answer(OTHER, question, 7, NOW_MS).items) == 1
    assert len(holder.answer(PEER, question, 7, NOW_MS + ANSWERS_MS).items) == 1


def test_of_all_who_ask_within_a_second_only_so_many_are_answered_in_full():
    holder, asker = make_puller(), make_puller()
    holder.keep_own("proofs", seal(attest(1)), NOW_MS)
    question = asker.backlog.ask(("proofs",), 0, SALT, NOW_MS)

    answers = [holder.answer(number.to_bytes(32, "big"), question, 7, NOW_MS) for number in range(ANSWERS_MAX + 5)]

    assert [len(answer.items) for answer in answers] == [1] * ANSWERS_MAX + [0] * 5
    assert {answer.tip for answer in answers} == {7}


def test_one_question_at_a_time_and_rarer_while_there_is_no_news():
    puller = make_puller()
    puller.note_up(PEER, NOW_MS)
    waits, now_ms = [], NOW_MS
    for _ in range(6):
        out = puller.on_timer(True, now_ms)
        wake = next(effect for effect in out if isinstance(effect, Wake))
        waits.append(wake.at_ms - now_ms)
        if any(isinstance(effect, NetRequest) for effect in out):
            assert not any(isinstance(effect, NetRequest) for effect in puller.on_timer(True, now_ms))
        answer(puller, now_ms=now_ms)
        now_ms = wake.at_ms

    assert waits[0] <= PAUSE_MS_MIN * 1.25
    assert PAUSE_MS_MAX <= waits[-1] <= PAUSE_MS_MAX * 1.25


def test_until_the_ledger_is_followed_nothing_is_asked():
    puller = make_puller()
    puller.note_up(PEER, NOW_MS)

    assert not any(isinstance(effect, NetRequest) for effect in puller.on_timer(False, NOW_MS))


def test_news_never_puts_the_next_question_off():
    puller = make_puller()
    puller.note_up(PEER, NOW_MS)
    (first,) = puller.hint(PEER, NOW_MS)

    (second,) = puller.hint(PEER, NOW_MS + 400)

    assert second.at_ms == first.at_ms


def test_all_peers_have_their_turn_and_one_that_connects_is_asked_next_for_everything():
    puller = make_puller()
    peers = [bytes([number]) * 32 for number in range(5)]
    asked = []
    for peer in peers:
        puller.note_up(peer, NOW_MS)
    for turn in range(10):
        request = next(out for out in puller.on_timer(True, NOW_MS + turn) if isinstance(out, NetRequest))
        asked.append(request.peer)
        answer(puller, peer=request.peer)
        if turn == 4:
            assert set(asked) == set(peers)
    puller.note_up(OTHER, NOW_MS)

    question = next(out for out in puller.on_timer(True, NOW_MS) if isinstance(out, NetRequest))

    assert question.peer == OTHER
    assert puller._asked[1].since_ms == NOW_MS - KEPT_MS
    assert FULL_EVERY > 1


def test_one_that_has_just_connected_is_asked_for_everything_once_and_then_only_now_and_then():
    def ask_twice(seed):
        puller = make_puller(seed=seed)
        ask(puller)
        first = puller._asked[1].since_ms
        answer(puller)
        ask(puller, ())
        return first, puller._asked[1].since_ms

    asked = [ask_twice(seed) for seed in range(40)]

    everything = NOW_MS - KEPT_MS
    assert {first for first, _ in asked} == {everything}
    assert 0 < sum(second == everything for _, second in asked) < 40 / FULL_EVERY * 2


def test_a_peer_that_went_is_not_asked_and_one_that_is_silent_holds_nobody_up():
    puller = make_puller()
    puller.note_up(PEER, NOW_MS)
    puller.note_up(OTHER, NOW_MS)
    puller.note_down(OTHER)
    assert ask(puller, ()).peer == PEER

    puller.on_unanswered()

    assert ask(puller, ()).peer == PEER
    puller.on_unanswered()
    puller.note_down(PEER)
    assert not any(isinstance(effect, NetRequest) for effect in puller.on_timer(True, NOW_MS))


def test_a_question_costs_ten_bits_for_each_message_and_next_to_nothing_when_idle():
    puller = make_puller()
    idle = len(ask(puller).data)
    puller.on_unanswered()
    for number in range(1_000):
        puller.keep_own("proofs", seal(attest(number)), NOW_MS)

    loaded = len(ask(puller, ()).data)

    assert idle < 220
    assert loaded - idle < 1_300


def test_claims_end_with_their_deadline():
    request = make_request(LEDGER, PARTS.foundation)
    worker = get_keys(PARTS.foundation, "inference-0")[0]
    receipt = make_receipt(pay(request, PARTS.foundation, b"c" * 32), worker)
    puller = make_puller()
    puller.keep_own("claims", seal(Claims((ClaimedWork(receipt.claim, request),)), worker), NOW_MS)
    assert len(puller.backlog) == 1

    puller.backlog.ask((), 0, SALT, request.deadline_ms)

    assert len(puller.backlog) == 0
