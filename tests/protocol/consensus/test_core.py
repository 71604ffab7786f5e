"""The consensus core, alone: what it says and keeps, event by event."""

from dataclasses import replace

import pytest

from protocol.consensus.core import ANSWER_MS, EARLY_MAX, Core
from protocol.consensus.events import (
    Accuse,
    Answer,
    Began,
    Broadcast,
    Build,
    Built,
    CatchUp,
    Check,
    Checked,
    Decide,
    Heard,
    Persist,
    SetTimer,
    ShareCause,
    SignedElsewhere,
    TimedOut,
    Woken,
)
from protocol.consensus.evidence import make_evidence, verify_evidence
from protocol.consensus.leaders import draw_leader
from protocol.consensus.messages import (
    GAP_MAX,
    Justification,
    Proposal,
    Vote,
    verify_ballot,
    verify_certified,
)
from protocol.consensus.signatures import KeySignatures
from protocol.consensus.simplex import Simplex
from protocol.keys import PrivateKey
from protocol.ledger.block import NOTHING, Ballot, Certificate, InvalidVote, Validator, VoteKind, VoteSignature

CHAIN, SEED = b"chain-01", b"seed"
KEYS = sorted((PrivateKey.from_seed(bytes([n]) * 32) for n in range(1, 5)), key=lambda key: key.public)
VALIDATORS = tuple(Validator(key.public, key.public, 1) for key in KEYS)
BLOCK, OTHER = b"\x11" * 32, b"\x22" * 32
NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY
LEADER = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 1))
ME = (LEADER + 1) % 4  # a validator that does not lead the first view


def signs(number: int) -> KeySignatures:
    return KeySignatures(CHAIN, KEYS[number])


def begun(number: int = ME, **fields) -> Core:
    core = Core(KEYS[number].public, signs(number))
    core.handle(Began(1, VALIDATORS, SEED, **fields), 0)
    return core


def propose(number: int = LEADER, block: bytes = BLOCK, view: int = 1, why: Justification | None = None) -> Proposal:
    why = why or Justification((), ())
    parent = why.notarised[0].ballot.view if why.notarised else 0
    ballot = Ballot(1, view, NOTARISE, parent, block, signs(number).digest(why))
    return Proposal(ballot, why, KEYS[number].public, signs(number).sign_proposal(ballot))


def vote(number: int, ballot: Ballot) -> Vote:
    return Vote(ballot, KEYS[number].public, signs(number).sign_vote(ballot))


def certify(ballot: Ballot, numbers: tuple[int, ...] = (0, 1, 2)) -> Certificate:
    votes = (VoteSignature(KEYS[n].public, signs(n).sign_vote(ballot)) for n in numbers)
    return Certificate(ballot, tuple(sorted(votes, key=lambda item: item.vote)))


def final(view: int = 1, block: bytes = BLOCK) -> Ballot:
    return Ballot(1, view, FINALISE, 0, block, NOTHING)


def void(view: int = 1) -> Ballot:
    return Ballot(1, view, NULLIFY, 0, NOTHING, NOTHING)


def said(effects: list, kind: type = Vote) -> list:
    return [effect.message for effect in effects if isinstance(effect, Broadcast) and isinstance(effect.message, kind)]


def test_an_idle_height_says_nothing_until_there_is_a_reason_for_a_block():
    core = Core(KEYS[ME].public, signs(ME))
    assert core.handle(Began(1, VALIDATORS, SEED), 0) == []
    assert core.handle(TimedOut(1, 1), 1_000) == []
    effects = core.handle(Woken(), 1_001)
    assert effects[0] == ShareCause(KEYS[LEADER].public)
    assert SetTimer(1, 1, 250) in effects


def test_one_vote_wakes_nobody_and_votes_of_more_than_a_third_do():
    core = begun()
    ballot = void()
    assert core.handle(Heard(vote((ME + 1) % 4, ballot)), 0) == []
    assert ShareCause(KEYS[LEADER].public) in core.handle(Heard(vote((ME + 2) % 4, ballot)), 0)


def test_the_cause_goes_to_the_leader_and_to_all_when_it_has_not_helped():
    core = begun()
    assert ShareCause(KEYS[LEADER].public) in core.handle(Woken(), 0)
    assert ShareCause() in core.handle(TimedOut(1, 1), 500)
    leader = begun(LEADER)
    assert not any(isinstance(effect, ShareCause) for effect in leader.handle(Woken(), 0))


def test_whom_the_leader_has_woken_tells_it_no_cause():
    core = begun()
    core.handle(Heard(propose()), 0)
    effects = core.handle(Checked(BLOCK), 0)
    assert said(effects) == [vote(ME, propose().ballot)]
    assert not any(isinstance(effect, ShareCause) for effect in effects)


def test_a_decision_is_news_for_those_whose_votes_did_not_make_it():
    core = begun()
    voters = tuple(n for n in range(4) if n != ME)
    (told,) = (e for e in core.handle(Heard(certify(final(), voters)), 0) if isinstance(e, Broadcast))
    assert told == Broadcast(certify(final(), voters), frozenset(KEYS[n].public for n in voters))


def test_a_leader_builds_keeps_and_then_sends_its_proposal_and_votes_for_it():
    core = begun(LEADER)
    assert Build(1, 1) in core.handle(Woken(), 0)
    effects = core.handle(Built(1, 1, BLOCK), 1)
    [proposal] = said(effects, Proposal)
    assert proposal == propose()
    assert effects.index(Persist(proposal)) < effects.index(Broadcast(proposal))
    [mine] = said(effects)
    assert mine == vote(LEADER, proposal.ballot)
    assert effects.index(Persist(mine)) < effects.index(Broadcast(mine))


def test_a_proposal_is_voted_for_once_its_block_is_checked_and_a_quorum_finalises_it():
    core = begun()
    proposal = propose()
    assert core.handle(Heard(proposal), 0) == [Check(1, BLOCK, False)]
    assert said(core.handle(Checked(BLOCK), 1)) == [vote(ME, proposal.ballot)]
    core.handle(Heard(vote(LEADER, proposal.ballot)), 2)
    effects = core.handle(Heard(vote((ME + 1) % 4 if (ME + 1) % 4 != LEADER else (ME + 2) % 4, proposal.ballot)), 3)
    assert said(effects) == [vote(ME, final())]
    assert len(said(effects, Certificate)) == 1
    others = [n for n in range(4) if n != ME]
    core.handle(Heard(vote(others[0], final())), 4)
    effects = core.handle(Heard(vote(others[1], final())), 5)
    [decision] = [effect for effect in effects if isinstance(effect, Decide)]
    verify_certified(decision.certificate, {key.public: 1 for key in KEYS}, signs(ME))
    assert decision.certificate.ballot == final()
    assert core.handle(Heard(vote(others[2], final())), 6) == []


def test_a_view_that_yields_nothing_in_time_is_nullified_and_never_finalised():
    core = begun()
    core.handle(Woken(), 0)
    assert said(core.handle(TimedOut(1, 1), 250)) == [vote(ME, void())]
    ballot = propose().ballot
    effects = core.handle(Heard(certify(ballot, tuple(n for n in range(4) if n != ME))), 300)
    assert [item.ballot.kind for item in said(effects)] == []


def test_who_has_finalised_a_view_never_nullifies_it():
    core = begun()
    effects = core.handle(Heard(certify(propose().ballot, tuple(n for n in range(4) if n != ME))), 0)
    assert said(effects) == [vote(ME, final())]
    effects = core.handle(TimedOut(1, 1), 250)
    assert not [item for item in said(effects) if item.ballot.kind == NULLIFY]
    assert core.view == 2


def test_the_next_leader_repeats_a_notarised_block_and_justifies_the_gap():
    second = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 2))
    core = begun(second)
    notarised = certify(propose().ballot, without(second))
    core.handle(Heard(notarised), 0)
    [proposal] = said(core.handle(TimedOut(1, 1), 250), Proposal)
    assert (proposal.ballot.parent, proposal.ballot.block_id) == (1, BLOCK)
    assert proposal.why.notarised[0].ballot == notarised.ballot


def test_a_proposal_that_leaves_a_gap_is_refused_and_a_vote_for_it_is_held_against_its_voter():
    second = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 2))
    core = begun()
    bad = propose(second, view=2)  # view 1 is neither notarised nor void
    assert core.handle(Heard(bad), 0) == []
    guilty = vote((ME + 1) % 4, bad.ballot)
    assert [effect.first for effect in core.handle(Heard(guilty), 1) if isinstance(effect, Accuse)] == [guilty]


@pytest.mark.parametrize(
    ("first", "second"),
    [(propose().ballot, propose(block=OTHER).ballot), (final(), final(block=OTHER)), (final(), void())],
    ids=["two notarised", "two finalised", "finalised and nullified"],
)
def test_whoever_votes_both_ways_is_accused_with_both_votes(first: Ballot, second: Ballot):
    core, liar = begun(), (ME + 1) % 4
    core.handle(Heard(vote(liar, first)), 0)
    [accusation] = [e for e in core.handle(Heard(vote(liar, second)), 1) if isinstance(e, Accuse)]
    assert {accusation.first, accusation.second} == {vote(liar, first), vote(liar, second)}


@pytest.mark.parametrize("is_told_first", [False, True])
def test_whoever_told_us_one_thing_and_others_another_is_accused_by_their_certificate(is_told_first: bool):
    core, liar = begun(), (ME + 1) % 4
    told, shown = vote(liar, void()), certify(final(), (0, 1, 2, 3))
    messages = [told, shown] if is_told_first else [certify(propose().ballot, (0, 1, 2, 3)), told, shown]
    found = [e for message in messages for e in core.handle(Heard(message), 0) if isinstance(e, Accuse)]
    assert [(e.first, e.second) for e in found] == [(told, vote(liar, final()))]
    assert core.is_decided


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("is_certificate", [False, True])
def test_a_decided_height_still_convicts_whoever_said_something_else_of_it(has_begun: bool, is_certificate: bool):
    core, liar = begun(), (ME + 1) % 4
    core.handle(Heard(certify(final(), (0, 1, 2, 3))), 0)
    if has_begun:
        core.handle(Began(2, VALIDATORS, SEED, certify(final())), 1)
    late = vote(liar, final(block=OTHER))
    effects = core.handle(Heard(certify(late.ballot, (liar,)) if is_certificate else late), 1_000)
    assert [(e.first, e.second) for e in effects if isinstance(e, Accuse)] == [(vote(liar, final()), late)]
    assert [type(e) for e in core.handle(Heard(late), 1_001)] == []

    other = (liar + 1) % 4
    forged = replace(vote(other, final(block=OTHER)), signature=bytes(64))
    assert core.handle(Heard(forged), 1_002) == []
    assert accused(certify(final()), replace(late, signature=bytes(64))) == []
    assert accused(certify(final()), vote(liar, replace(final(), parent=1))) == []


def test_a_proposal_that_repeats_another_block_than_was_notarised_is_refused():
    notarised = certify(propose().ballot)
    second = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 2))
    for block, wanted in ((BLOCK, [Check(1, BLOCK, True)]), (OTHER, [])):
        core = begun(next(n for n in range(4) if n not in (LEADER, second)))
        core.handle(Heard(notarised), 0)
        effects = core.handle(Heard(propose(second, block, 2, Justification((notarised,), ()))), 1)
        assert [effect for effect in effects if isinstance(effect, Check)] == wanted


def test_a_validator_that_is_awake_votes_for_no_block_before_it_is_checked():
    core = begun()
    core.handle(Woken(), 0)
    assert said(core.handle(Heard(propose()), 1)) == []
    assert said(core.handle(Checked(OTHER), 2)) == []
    assert said(core.handle(Checked(BLOCK), 3)) == [vote(ME, propose().ballot)]


def test_votes_of_views_that_nobody_can_be_in_are_not_kept():
    core = begun()
    for number in (n for n in range(4) if n != ME):
        assert core.handle(Heard(vote(number, void(GAP_MAX + 1))), 0) == []
    assert not core.view


def test_a_leader_of_two_proposals_is_accused():
    core = begun()
    core.handle(Heard(propose()), 0)
    effects = core.handle(Heard(propose(block=OTHER)), 1)
    assert [type(effect) for effect in effects] == [Accuse]


@pytest.mark.parametrize(
    "message",
    [
        replace(vote(0, void()), signature=bytes(64)),
        replace(vote(0, void()), voter=b"\x09" * 32),
        vote(0, replace(void(), view=0)),
        vote(0, replace(void(), block_id=BLOCK)),
        vote(0, replace(final(), parent=1)),
        vote(0, replace(final(), block_id=NOTHING)),
        certify(final(), (0, 1)),
        replace(certify(final()), votes=certify(final()).votes[::-1]),
        replace(certify(final()), ballot=final(block=OTHER)),
        replace(propose(), signature=bytes(64)),
        propose((LEADER + 1) % 4),
    ],
)
def test_what_no_honest_validator_sends_changes_nothing(message):
    core = begun()
    assert core.handle(Heard(message), 0) == []
    assert not core.view


def test_a_restarted_validator_says_the_same_bytes_again_and_nothing_else():
    core = begun(LEADER)
    core.handle(Woken(), 0)
    log = [effect.record for effect in core.handle(Built(1, 1, BLOCK), 1) if isinstance(effect, Persist)]
    again = Core(KEYS[LEADER].public, signs(LEADER))
    effects = again.handle(Began(1, VALIDATORS, SEED, log=tuple(log)), 5)
    assert not [effect for effect in effects if isinstance(effect, Build | Persist)]
    effects = again.handle(TimedOut(1, 1), 300)
    assert said(effects, Proposal) == [log[0]]
    assert log[1] in said(effects)


def test_whoever_finalises_a_view_can_still_show_after_a_crash_that_it_was_notarised():
    core = begun()
    notarised = certify(propose().ballot, tuple(n for n in range(4) if n != ME))
    effects = core.handle(Heard(notarised), 0)
    kept = [effect.record for effect in effects if isinstance(effect, Persist)]
    assert kept == [notarised, vote(ME, final())]
    assert effects.index(Persist(kept[0])) < effects.index(Persist(kept[1])) < effects.index(Broadcast(kept[1]))

    again = Core(KEYS[ME].public, signs(ME))
    effects = again.handle(Began(1, VALIDATORS, SEED, log=tuple(kept)), 5)
    assert said(effects, Certificate) == [notarised]
    assert not [effect for effect in effects if isinstance(effect, Persist)]
    again.handle(TimedOut(1, 1), 300)
    assert again.view == 2  # and the others follow the certificate


def test_whoever_decides_alone_accuses_nobody_after_a_crash_between_two_records():
    alone = VALIDATORS[:1]
    core = Core(alone[0].vote, KeySignatures(CHAIN, KEYS[0]))
    core.handle(Began(1, alone, SEED), 0)
    core.handle(Woken(), 0)
    log = tuple(effect.record for effect in core.handle(Built(1, 1, BLOCK), 0) if isinstance(effect, Persist))
    assert [type(record) for record in log] == [Proposal, Vote, Certificate, Vote]
    for kept in range(2, len(log) + 1):
        core = Core(alone[0].vote, KeySignatures(CHAIN, KEYS[0]))
        effects = core.handle(Began(1, alone, SEED, log=log[:kept]), 1)
        assert [type(effect) for effect in effects if isinstance(effect, Decide | Accuse)] == [Decide]


def test_without_its_log_a_validator_follows_and_says_nothing_until_the_next_height():
    core = begun(LEADER, may_vote=False)
    assert not said(core.handle(Woken(), 0), Proposal)
    assert not [e for e in core.handle(TimedOut(1, 1), 250) if isinstance(e, Persist)]
    [decision] = [e for e in core.handle(Heard(certify(final())), 300) if isinstance(e, Decide)]
    core.handle(Began(2, VALIDATORS, SEED, decided=decision.certificate), 301)
    core.handle(Woken(), 302)
    assert [e for e in core.handle(TimedOut(2, 1), 600) if isinstance(e, Persist)]


def is_decided_after_a_leader_favoured_one() -> bool:
    """A leader shows its proposal to two of the three others and its vote to one, and is silent from then on.

    That one has finalised the view and will never nullify it; the other two have not seen the certificate, and cannot
    nullify it without a third. Nor does the favoured one lead the next view, where its proposal would hold it.
    """
    second = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 2))
    favoured, half, deaf = sorted((n for n in range(4) if n != LEADER), key=lambda n: n == second)
    cores = {n: begun(n) for n in (favoured, half, deaf)}
    waiting: list[tuple[int, Heard | Built | Checked]] = []
    decided: set[int] = set()

    def do(number: int, event) -> None:
        for effect in cores[number].handle(event, 0):
            match effect:
                case Broadcast(message):
                    waiting.extend((n, Heard(message)) for n in cores if n != number)
                case Build():
                    waiting.append((number, Built(effect.height, effect.view, OTHER)))
                case Check():
                    waiting.append((number, Checked(effect.block_id)))
                case Decide():
                    decided.add(number)

    for number in (half, favoured):
        do(number, Heard(propose()))
        do(number, Checked(BLOCK))
    do(favoured, Heard(vote(half, propose().ballot)))
    do(favoured, Heard(vote(LEADER, propose().ballot)))
    waiting.clear()  # what they said meanwhile is lost
    do(deaf, Woken())
    for _ in range(30):
        for number, core in cores.items():
            if number not in decided:
                do(number, TimedOut(1, core.view))
        while waiting:
            do(*waiting.pop(0))
    return decided == set(cores)


def test_certificates_are_relayed_else_one_leader_could_stop_a_height_for_ever(monkeypatch: pytest.MonkeyPatch):
    assert is_decided_after_a_leader_favoured_one()
    monkeypatch.setattr(Simplex, "_relay", lambda simplex, item: None)
    assert not is_decided_after_a_leader_favoured_one()


def test_a_timer_repeats_what_lets_others_into_the_view_and_is_set_again():
    core = begun()
    notarised = certify(propose().ballot)
    core.handle(Heard(notarised), 0)
    core.handle(Heard(certify(void(2))), 1)
    assert core.view == 3
    effects = core.handle(TimedOut(1, 3), 300)
    assert said(effects, Certificate) == [notarised, certify(void(2))]
    assert SetTimer(1, 3, 250) in effects


def test_a_block_that_is_built_when_its_view_has_passed_is_not_proposed():
    core = begun(LEADER)
    assert Build(1, 1) in core.handle(Woken(), 0)
    core.handle(Heard(certify(void())), 1)
    assert core.view == 2
    assert core.handle(Built(1, 1, BLOCK), 2) == []


def test_of_the_next_height_so_many_messages_of_one_validator_are_kept():
    class Counting(KeySignatures):
        checked = 0

        def is_vote(self, voter: bytes, ballot: Ballot, signature: bytes) -> bool:
            Counting.checked += 1
            return True

    core = Core(KEYS[ME].public, Counting(CHAIN, KEYS[ME]))
    core.handle(Began(1, VALIDATORS, SEED), 0)
    for view in range(1, EARLY_MAX + 10):
        core.handle(Heard(vote(LEADER, replace(void(view), height=2))), 0)
    core.handle(Heard(certify(final())), 1)
    Counting.checked = 0
    core.handle(Began(2, VALIDATORS, SEED, decided=certify(final())), 2)
    assert Counting.checked == EARLY_MAX


def test_messages_of_the_next_height_wait_and_those_beyond_it_ask_for_blocks():
    core = begun()
    later = Ballot(2, 1, FINALISE, 0, OTHER, NOTHING)
    assert core.handle(Heard(certify(later)), 0) == []
    assert core.handle(Heard(certify(replace(later, height=9))), 0) == [CatchUp(9)]
    core.handle(Heard(certify(final())), 1)
    effects = core.handle(Began(2, VALIDATORS, SEED, decided=certify(final())), 2)
    assert Decide(certify(later)) in effects


@pytest.mark.parametrize("has_finalised", [False, True])
def test_a_view_whose_nullification_nobody_can_show_is_nullified_unless_it_was_finalised(has_finalised: bool):
    # The certificate of view 1, by which others came into view 2, was lost with them.
    core = begun(log=(vote(ME, final()),) if has_finalised else ())
    core.handle(Heard(certify(void(2), tuple(n for n in range(4) if n != ME))), 0)
    assert core.view == 3
    cast = [item.ballot for item in said(core.handle(TimedOut(1, 3), 500)) if item.ballot.kind == NULLIFY]
    assert cast == ([void(3)] if has_finalised else [void(3), void(1)])


def test_who_has_decided_and_still_lacks_the_block_tells_those_who_go_on_voting():
    core, decided = begun(), certify(final())
    repeated = Heard(vote(0, final()))
    core.handle(Heard(decided), 0)
    told = [core.handle(repeated, now_ms) for now_ms in (ANSWER_MS - 1, ANSWER_MS, ANSWER_MS + 1, 2 * ANSWER_MS)]
    assert told == [[], [Answer(decided)], [], [Answer(decided)]]


def test_who_is_behind_is_told_what_was_decided_at_most_every_tenth_of_a_second():
    core = begun()
    core.handle(Heard(certify(final())), 0)
    core.handle(Began(2, VALIDATORS, SEED, decided=certify(final())), 1)
    stale = Heard(vote(0, void()))
    assert core.handle(stale, 10) == [Answer(certify(final()))]
    assert core.handle(stale, 50) == []
    assert core.handle(stale, 200) == [Answer(certify(final()))]


def test_ballots_have_one_spelling():
    for ballot in (propose().ballot, final(), void()):
        verify_ballot(ballot)
        with pytest.raises(InvalidVote):
            verify_ballot(replace(ballot, kind=0))


def test_a_vote_of_ours_that_we_have_not_cast_silences_us_for_good():
    for shown in (vote(ME, void()), certify(propose().ballot, (ME, LEADER, (ME + 1) % 4))):
        core = begun()
        effects = core.handle(Heard(shown), 0)
        assert SignedElsewhere(shown.ballot) in effects
        core.handle(Woken(), 1)
        core.handle(Heard(propose()), 2)
        assert said(core.handle(Checked(BLOCK), 3)) == []
        assert said(core.handle(TimedOut(1, 1), 300)) == []


def test_our_own_vote_shown_to_us_after_a_restart_is_ours():
    mine = vote(ME, void())
    core = begun(log=(mine,))
    assert core.handle(Heard(certify(void(), (ME, LEADER, (ME + 1) % 4))), 1) != []
    assert said(core.handle(TimedOut(1, 2), 600)) != []


def test_a_block_refused_for_its_time_is_looked_at_again_once_others_have_notarised_it():
    core = begun()
    assert Check(1, BLOCK, False) in core.handle(Heard(propose()), 0)
    leader = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 2))
    again = propose(leader, view=2, why=Justification((certify(propose().ballot, without(ME)),), ()))
    assert Check(1, BLOCK, True) in core.handle(Heard(again), 1)


def without(number: int) -> tuple[int, ...]:
    return tuple(n for n in range(4) if n != number)


def test_leaders_are_drawn_by_weight():
    heavy = (replace(VALIDATORS[0], weight=97), *VALIDATORS[1:])
    drawn = [draw_leader(heavy, SEED, height, 1) for height in range(300)]
    assert drawn.count(heavy[0].vote) > 270
    assert len({draw_leader(VALIDATORS, SEED, height, 1) for height in range(100)}) == 4


def accused(*messages) -> list[Accuse]:
    core = begun()
    effects = [effect for message in messages for effect in core.handle(Heard(message), 0)]
    return [effect for effect in effects if isinstance(effect, Accuse)]


def test_what_the_core_finds_is_evidence_that_convicts_its_author():
    liar = (ME + 1) % 4
    second = next(n for n, key in enumerate(KEYS) if key.public == draw_leader(VALIDATORS, SEED, 1, 2))
    bad = propose(second, view=2, why=Justification((certify(propose().ballot, (0, 1)),), ()))
    found = [
        *accused(propose(), propose(block=OTHER)),
        *accused(vote(liar, propose().ballot), vote(liar, propose(block=OTHER).ballot)),
        *accused(vote(liar, final()), vote(liar, void())),
        *accused(vote(liar, final()), vote(liar, final(block=OTHER))),
        *accused(vote(liar, bad.ballot), bad),
        *accused(bad, vote(liar, bad.ballot)),
    ]
    guilty = [verify_evidence(make_evidence(effect), VALIDATORS, CHAIN) for effect in found]
    assert guilty == [KEYS[LEADER].public, *[KEYS[liar].public] * 5]


def test_a_leader_cannot_have_honest_voters_blamed_for_what_it_hung_on_to_their_ballot():
    liar = (ME + 1) % 4
    swapped = replace(propose(), why=Justification((), (certify(void()),)))
    assert accused(vote(liar, propose().ballot), swapped) == []
    # A leader may sign anything as a proposal, the ballot of others' votes to finalise too.
    disguised = Proposal(final(), Justification((), ()), KEYS[LEADER].public, signs(LEADER).sign_proposal(final()))
    assert accused(vote(liar, final()), disguised) == []
