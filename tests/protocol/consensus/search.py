"""Every run of four validators, one of them a liar, through the first two views of a height: by what they have said.

What was said can be heard from then on, by each of the others, at any time or never. So of a validator others know what
it has said, nothing else, and a world need not be three states: it is what the three have said, with the *set* of
states that each may be in (`automaton.Said`, a bit for each). These sets are closed under all that nobody else
notices. A step is that one of them says something more: its set is then the states after that, and those of the others
stay, to be closed again under what can be heard now.

Why nothing is left out:

- What is said is never taken back, so no way leads from a world to one with as many words. Worlds are gone through by
  number of words, each once, when all that leads to it has been. Ways that lead to the same words are put together,
  each set with its like. That makes worlds of states which came by different ways: more than there are, none fewer. A
  violation found could be one that no run leads to; if none is found there is none. Where all interleavings can be
  gone through (`plain`), both find the same (`test_search`).
- The liar has everything ready that it can sign, from the beginning: all votes, and as a leader a proposal for each
  block, parent and justification, fit or unfit, that can be made of certificates there are.
- Votes are heard when they complete a certificate, with as many others as that takes (found by trying: the search knows
  no quorum), or as a certificate. Fewer have no effect but to wake, which comes by itself too; more have none either.
  Whose they are makes no difference, but for one's own: the others' are named anew for whoever hears them.
- Two blocks of the liar are as good as any number, beside those of honest leaders, which it may repeat in any view.
  Give all its blocks two names, so that the two that are decided or notarised have different ones. Of two proposals in
  a view that have one name now a validator that heard both took the first, and held the other against its leader,
  which changes nothing: the same as if it heard one twice. Votes for both count for either, and need not be heard.

Of the third view there is that one may enter it; the liar leads it, and nothing is said in it.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product

from protocol.consensus.core import Core
from protocol.consensus.events import Began, Heard, Woken
from protocol.consensus.messages import Justification, Message, Proposal
from protocol.ledger.block import NOTHING, Ballot, Certificate, VoteKind
from tests.protocol.consensus.automaton import Automaton, Local, Names, Said
from tests.protocol.consensus.plain import (
    BLOCKS,
    HONEST,
    KEYS,
    LIAR,
    VALIDATORS,
    Violation,
    cast,
    certify,
    find_alike,
    find_seed,
    name_outcome,
    name_part,
)

NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY
NAMES = Names(KEYS[LIAR])

World = tuple[Said, Said, Said]
Sets = tuple[int, int, int]
Found = tuple[int, tuple[tuple[Said, int], ...]]  # states without a new word, and those with one


@dataclass(frozen=True, eq=False)
class Stimuli:
    """What one validator may hear now, by number."""

    number: int
    happenings: tuple[int, ...]


@dataclass
class Search:
    """One assignment of leaders to views. With crashes, all may die and come back as often as they like."""

    leaders: tuple[int, int]
    views: int = 2
    has_crashes: bool = False
    is_late: bool = True
    worlds: int = 0
    steps: int = 0
    outcomes: set[tuple] = field(default_factory=set)  # who has voted for what and decided what, in any world
    _came: dict[World, World | None] = field(default_factory=dict)
    _stimuli: dict[tuple, Stimuli] = field(default_factory=dict)
    _found: dict[tuple[int, int, int], Found] = field(default_factory=dict)
    _judged: dict[tuple[int, int], "Judged"] = field(default_factory=dict)

    def run(self) -> None:
        """Go through all of it. Violation when validators can disagree."""
        self._seed = find_seed((*self.leaders, LIAR))
        self.automaton = Automaton(self._seed, self.views, self.has_crashes, self.is_late)
        self._least_votes, self._least_certificate = self._find_least()
        starts = [self.automaton.start(find_alike(number, self.leaders)) for number in HONEST]
        first, sets = sort([(local.said, 1 << local.bit) for local in starts])
        self._came[first] = None
        waiting: dict[World, Sets] = {first: sets}
        order = [rank(first)]
        while order:
            world = heapq.heappop(order)[-1]
            self.worlds += 1
            stimuli = self._gather(world)
            found = [self._expand(*each) for each in zip(world, waiting.pop(world), stimuli, strict=True)]
            closed = [(said, states) for said, (states, _) in zip(world, found, strict=True)]
            self._verify(world, closed)
            for place in range(3):
                for more in found[place][1]:
                    self.steps += 1
                    after, sets = sort([*closed[:place], more, *closed[place + 1 :]])
                    if after not in self._came:
                        self._came[after] = world
                        waiting[after] = sets
                        heapq.heappush(order, rank(after))
                    else:  # KeyError if it had been gone through already: its words would be no more than ours
                        one, two, three = waiting[after]
                        waiting[after] = one | sets[0], two | sets[1], three | sets[2]

    def _verify(self, world: World, closed: list[tuple[Said, int]]) -> None:
        """Violation if two of them can be in states that disagree."""
        found = [self._judge(*each) for each in closed]
        self.outcomes |= {name_outcome(each) for each in product(*(judged.outcomes for judged in found))}
        for mine, yours in combinations(found, 2):
            if any(one != two for one in mine.decided for two in yours.decided):
                raise Violation(f"two blocks are decided: {self._tell(world)}")
            if any(one[0] == two[0] and one != two for one in mine.notarised for two in yours.notarised):
                raise Violation(f"two blocks are notarised in one view: {self._tell(world)}")

    def _judge(self, said: Said, states: int) -> "Judged":
        known = self._judged.get((said.number, states))
        if known is None:
            those = list(list_locals(said, states))
            notarised = {item.ballot for local in those for item in local.core._here.held.notarised.values()}
            known = self._judged[said.number, states] = Judged(
                frozenset(local.decided for local in those if local.decided),
                frozenset((ballot.view, ballot.block_id) for ballot in notarised),
                frozenset(name_part(said.who, said.votes, local.decided) for local in those),
            )
        return known

    # What one validator may do

    def _expand(self, said: Said, states: int, stimuli: Stimuli) -> Found:
        """All states without a new word that follow from these, them included, and those with a new word."""
        key = said.number, states, stimuli.number
        known = self._found.get(key)
        if known is None:
            closed, waiting = 0, states
            said_more: dict[Said, int] = {}
            while waiting:
                closed |= waiting
                silent = 0
                for local in list_locals(said, waiting):
                    same, more = self._list_next(local, stimuli)
                    silent |= same
                    for after, at in more:
                        said_more[after] = said_more.get(after, 0) | at
                waiting = silent & ~closed
            known = self._found[key] = closed, tuple(said_more.items())
        return known

    def _list_next(self, local: Local, stimuli: Stimuli) -> Found:
        known = local.nexts.get(stimuli.number)
        if known is None:
            same, more = 0, {}
            for number in (*local.own, *stimuli.happenings):
                for after in self.automaton.follow(local, number):
                    if after.said is local.said:
                        same |= 1 << after.bit
                    else:
                        more[after.said] = more.get(after.said, 0) | 1 << after.bit
            known = local.nexts[stimuli.number] = same, tuple(more.items())
        return known

    # What may be heard

    def _find_least(self) -> tuple[int, int]:
        """How many votes certify, one by one and in a certificate."""
        ballot = Ballot(1, 1, NULLIFY, 0, NOTHING, NOTHING)

        def certifies(*messages: Message) -> bool:
            core = Core(None, NAMES)
            for event in (Began(1, VALIDATORS, self._seed), Woken(), *map(Heard, messages)):
                core.handle(event, 0)
            return core._here.held.has(ballot)

        sizes = range(1, len(KEYS) + 1)
        votes = (size for size in sizes if certifies(*(cast(voter, ballot) for voter in range(size))))
        certificates = (size for size in sizes if certifies(certify(ballot, tuple(range(size)))))
        return next(votes), next(certificates)

    def _gather(self, world: World) -> list[Stimuli]:
        """What each may hear: of the honest what they have said, of the liar all it can sign, justified or not."""
        counts = Counter(ballot for said in world for ballot in said.votes)
        least = min(self._least_votes, self._least_certificate) - 1  # the liar's is always there
        quorums = [ballot for ballot, count in counts.items() if count >= least and ballot.view <= self.views]
        made = {ballot: item for said in world for ballot, item in said.proposals.items() if ballot.view <= self.views}
        gathered = []
        for said in world:
            votes = {ballot: (counts[ballot] - (ballot in said.votes) + 1, ballot in said.votes) for ballot in quorums}
            key = said.who, frozenset(votes.items()), frozenset(made)
            known = self._stimuli.get(key)
            if known is None:
                happenings = tuple(self._list_heard(said.who, votes, made))
                known = self._stimuli[key] = Stimuli(len(self._stimuli), happenings)
            gathered.append(known)
        return gathered

    def _list_heard(
        self, who: int, votes: dict[Ballot, tuple[int, bool]], made: dict[Ballot, Proposal]
    ) -> Iterator[int]:
        """`votes` is how many others have voted for what, and whether we have."""
        number = self.automaton.number
        certificates = {}
        for ballot, (others, has_voted) in votes.items():
            size = min(others, self._least_certificate - has_voted)
            certificates[ballot] = certify(ballot, (*name_others(who, size), *[who] * has_voted))
            if others + has_voted >= self._least_certificate:
                yield number((who, "certificate", ballot, size), ("hears", certificates[ballot]))
            # Its own it has counted, unless it has forgotten it.
            for size in {self._least_votes - has_voted, self._least_votes}:
                if others >= size:
                    heard = [cast(voter, ballot) for voter in name_others(who, size)]
                    yield number((who, "votes", ballot, size), ("counts", *heard))
        for proposal in (*self._list_retold(made, certificates), *self._list_lies(made, certificates)):
            held = [item.votes for item in (*proposal.why.notarised, *proposal.why.nullified)]
            yield number((who, "proposal", proposal.ballot, *held), ("hears", proposal))

    def _list_retold(self, made: dict[Ballot, Proposal], certificates: dict[Ballot, Certificate]) -> Iterator[Proposal]:
        """Honest proposals, the votes in their certificates named for who hears them."""
        for ballot, item in made.items():
            notarised, nullified = (
                tuple(certificates[each.ballot] for each in part) for part in (item.why.notarised, item.why.nullified)
            )
            yield Proposal(ballot, Justification(notarised, nullified), item.leader, item.signature)

    def _list_lies(self, made: dict[Ballot, Proposal], certificates: dict[Ballot, Certificate]) -> Iterator[Proposal]:
        blocks = sorted({*BLOCKS, *(ballot.block_id for ballot in made)})
        if self.leaders[0] == LIAR:
            yield from (propose(1, 0, block, Justification((), ())) for block in blocks)
        if self.leaders[1] == LIAR and self.views > 1:
            first = [item for item in certificates.values() if item.ballot.view == 1]
            notarised = [(), *((item,) for item in first if item.ballot.kind == NOTARISE)]
            nullified = [(), *((item,) for item in first if item.ballot.kind == NULLIFY)]
            for block, parent, *why in product(blocks, (0, 1), notarised, nullified):
                yield propose(2, parent, block, Justification(*why))

    def _tell(self, world: World) -> str:
        """The words that led to a world, in order."""
        told: list[str] = []
        before = self._came[world]
        while before is not None:
            words, words_before = (
                Counter((said.who, ballot) for said in each for ballot in (*said.votes, *said.proposals))
                for each in (world, before)
            )
            told += [f"{who} says {tell_ballot(ballot)}" for who, ballot in words - words_before]
            world, before = before, self._came[before]
        return "; ".join(reversed(told))


@dataclass(frozen=True)
class Judged:
    """What a set of states of one validator comes to."""

    decided: frozenset[bytes]
    notarised: frozenset[tuple[int, bytes]]
    outcomes: frozenset[tuple]


def sort(parts: list[tuple[Said, int]]) -> tuple[World, Sets]:
    """Alike validators by what they have said. Those who have said the same may be in the same states."""
    parts = sorted(parts, key=lambda part: (part[0].who, part[0].number))
    together: Counter[Said] = Counter()
    for said, states in parts:
        together[said] |= states
    one, two, three = (said for said, _ in parts)
    return (one, two, three), (together[one], together[two], together[three])


def rank(world: World) -> tuple:
    return sum(said.words for said in world), *(said.number for said in world), world


def list_locals(said: Said, states: int) -> Iterator[Local]:
    while states:
        yield said.locals[(states & -states).bit_length() - 1]
        states &= states - 1


def name_others(who: int, count: int) -> list[int]:
    return [number for number in (LIAR, *HONEST) if number != who][:count]


def propose(view: int, parent: int, block: bytes, why: Justification) -> Proposal:
    return Proposal(Ballot(1, view, NOTARISE, parent, block, NAMES.digest(why)), why, KEYS[LIAR], KEYS[LIAR] * 2)


def tell_ballot(ballot: Ballot) -> str:
    return f"{VoteKind(ballot.kind).name.lower()} {ballot.view} of {ballot.block_id[:1].hex()}"
