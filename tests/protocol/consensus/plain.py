"""Every run of four validators, one of them a liar, through the first views of a height: all interleavings.

The honest three are real cores. What they have said may reach each of the others at any time or never; the liar has
every vote and proposal that it can sign ready from the beginning, and everything that it has heard.

What makes it few enough: a vote that completes nothing has no effect, and is handed over with those that complete
something; steps that nobody else can know of are taken together with the next one that says something, since all that
was ever said can still be heard then (partial order). Validators that lead no view are alike (symmetry), and states
seen before are not gone through again (hashing). The smallest set of votes at which a core certifies is found by
trying: the search knows no quorum.

Still a state for each way in which three validators can have heard things: one view can be gone through, and two under
honest leaders, in minutes. `search` goes further, and is held against this.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import TypeVar

from protocol.consensus.core import Core
from protocol.consensus.events import (
    Began,
    Build,
    Built,
    Check,
    Checked,
    Decide,
    Event,
    Heard,
    Persist,
    TimedOut,
    Woken,
)
from protocol.consensus.held import Held
from protocol.consensus.leaders import draw_leader
from protocol.consensus.messages import Justification, Proposal, Vote
from protocol.consensus.signed import Signed
from protocol.consensus.simplex import Simplex
from protocol.consensus.tally import Count, Tally
from protocol.ledger.block import NOTHING, Ballot, Certificate, Validator, VoteKind, VoteSignature
from testnet.consensus.seat import NamedSignatures

KEYS = tuple(bytes([number + 1]) * 32 for number in range(4))
VALIDATORS = tuple(Validator(key, key, 1) for key in KEYS)
LIAR = 3
HONEST = (0, 1, 2)
VIEWS = 2
BLOCKS = (b"\xaa" * 32, b"\xbb" * 32)  # the liar's
NOTARISE, FINALISE, NULLIFY = VoteKind.NOTARISE, VoteKind.FINALISE, VoteKind.NULLIFY
NAMES = NamedSignatures(KEYS[LIAR])


class Violation(AssertionError):
    """Something that must not be, with the steps that led to it."""


@dataclass(frozen=True, eq=False)
class Local:
    """One state that one honest validator can be in. The core is never touched again: it is cloned to go on.

    `names` are numbers for the state, one for each way of naming the alike validators.
    """

    core: Core
    log: tuple[Vote | Proposal | Certificate, ...]
    decided: bytes | None
    names: tuple[int, ...]
    votes: tuple[Ballot, ...]
    says: int  # a number for what others may know of it
    steps: dict[tuple, "Local"] = field(default_factory=dict)  # what follows, by what happens


World = tuple[Local, Local, Local]


@dataclass(frozen=True, eq=False)
class Pool:
    """What may be heard: proposals, and who has voted for what."""

    proposals: tuple[Proposal, ...]
    votes: tuple[tuple[Ballot, tuple[int, ...]], ...]


@dataclass
class Search:
    """One assignment of leaders to views. `crashes_max` is how often an honest validator may die and come back."""

    leaders: tuple[int, ...]
    crashes_max: int = 0
    states: int = 0
    steps: int = 0
    outcomes: set[tuple] = field(default_factory=set)
    locals: dict[tuple, Local] = field(default_factory=dict)
    _numbers: dict[tuple, int] = field(default_factory=dict)
    _pools: dict[tuple, Pool] = field(default_factory=dict)
    _nexts: dict[tuple, list[tuple[Local, int, str]]] = field(default_factory=dict)

    def run(self) -> None:
        """Go through all of it. Violation when validators can disagree."""
        self._seed = find_seed(self.leaders)
        self._orders = list(permutations([number for number in HONEST if number not in self.leaders]))
        start = tuple(self._begin(number, ()) for number in HONEST)
        came: dict[tuple, tuple[tuple | None, str]] = {self._name(start, 0): (None, "")}
        waiting: list[tuple[World, int]] = [(start, 0)]
        while waiting:
            world, crashes = waiting.pop()
            name = self._name(world, crashes)
            self.states += 1
            what = find_violation(world)
            if what:
                raise Violation(f"{what}: {'; '.join(list_steps(came, name))}")
            self.outcomes.add(
                name_outcome(
                    name_part(find_alike(number, self.leaders), local.votes, local.decided)
                    for number, local in enumerate(world)
                )
            )
            said = tuple(local.says for local in world)
            pool = self._pools.get(said) or self._pools.setdefault(said, self._gather(world))
            for number in HONEST:
                for after_one, deaths, how in self._list_next(world[number], number, pool, self.crashes_max - crashes):
                    self.steps += 1
                    after = (*world[:number], after_one, *world[number + 1 :])
                    after_name = self._name(after, crashes + deaths)
                    if after_name not in came:
                        came[after_name] = name, how
                        waiting.append((after, crashes + deaths))

    # What may happen next

    def _list_next(self, local: Local, number: int, pool: Pool, deaths_left: int) -> list[tuple[Local, int, str]]:
        """How this validator may come to say something new, or to decide: through steps that nobody else sees."""
        key = local, pool, deaths_left
        known = self._nexts.get(key)
        if known is not None:
            return known
        found: dict[tuple[Local, int], str] = {}
        waiting: list[tuple[Local, int, str]] = [(local, 0, "")]
        seen = {(local, 0)}
        while waiting:
            at, deaths, how = waiting.pop()
            for happens in self._list_steps(at, number, pool, deaths < deaths_left):
                after = self._follow(at, number, happens)
                state = after, deaths + (happens[0] == "dies")
                if state in seen:
                    continue
                seen.add(state)
                told = f"{how}; {show(number, happens)}"
                if after.says == local.says:
                    waiting.append((*state, told))
                else:
                    found.setdefault(state, told)
        self._nexts[key] = [(*state, told) for state, told in found.items()]
        return self._nexts[key]

    def _list_steps(self, local: Local, number: int, pool: Pool, may_die: bool) -> Iterator[tuple]:
        core = local.core
        if may_die and local.log:
            yield ("dies",)
        if core.is_decided:
            return
        if core.view <= VIEWS:
            yield ("times out",)
        for proposal in pool.proposals:
            yield "hears", proposal
        for ballot, voters in pool.votes:
            others = tuple(voter for voter in voters if voter != number)
            if not core._here.held.has(ballot):
                if self._certifies(local, number, ballot, others):
                    yield "hears", certify(ballot, voters)
                for chosen in self._list_complete(local, number, ballot, others):
                    yield "hears", *(cast(voter, ballot) for voter in chosen)

    def _list_complete(self, local: Local, number: int, ballot: Ballot, voters: tuple[int, ...]) -> Iterator[tuple]:
        """The least sets of votes with which this validator certifies."""
        for size in range(len(voters), 0, -1):
            if not self._certifies(local, number, ballot, voters[:size]):
                break
        else:
            size = 0
        least = size + 1
        if least <= len(voters):
            yield from combinations(voters, least)

    def _certifies(self, local: Local, number: int, ballot: Ballot, voters: tuple[int, ...]) -> bool:
        core = self._follow(local, number, ("hears", *(cast(voter, ballot) for voter in voters))).core
        return core.is_decided or core._here.held.has(ballot)

    def _gather(self, world: World) -> Pool:
        """What may be heard: of the honest what they have said, of the liar all it can sign, justified or not."""
        made = [
            item for local in world for item in local.core._here.signed.proposals.values() if item.ballot.view <= VIEWS
        ]
        if self.leaders[0] == LIAR:
            made += [propose(1, 0, block, Justification((), ())) for block in BLOCKS]
        if self.leaders[1] == LIAR:
            votes = list_votes(world, made)
            certified = [certify(ballot, who) for ballot, who in votes if ballot.view == 1 and len(who) > 2]
            notarised = [item for item in certified if item.ballot.kind == NOTARISE]
            void = tuple(item for item in certified if item.ballot.kind == NULLIFY)
            for block in sorted({*BLOCKS[:1], *(item.ballot.block_id for item in made)}):
                made.append(propose(2, 0, block, Justification((), void)))
                made += [propose(2, 1, block, Justification((item,), ())) for item in notarised]
        return Pool(tuple(made), list_votes(world, made))

    # Doing it

    def _begin(self, number: int, log: tuple) -> Local:
        core = Core(KEYS[number], NamedSignatures(KEYS[number]))
        return self._do(core, log, None, number, [Began(1, VALIDATORS, self._seed, log=log), Woken()])

    def _follow(self, local: Local, number: int, happens: tuple) -> Local:
        known = local.steps.get(happens)
        if known is None:
            known = local.steps[happens] = self._take(local, number, happens)
        return known

    def _take(self, local: Local, number: int, happens: tuple) -> Local:
        if happens == ("dies",):
            return self._begin(number, local.log)
        core = clone(local.core, clone_tally)
        events = [Heard(message) for message in happens[1:]] or [TimedOut(1, core.view)]
        return self._do(core, local.log, local.decided, number, events)

    def _do(self, core: Core, log: tuple, decided: bytes | None, number: int, events: list[Event]) -> Local:
        waiting = deque(events)
        while waiting:
            for effect in core.handle(waiting.popleft(), 0):
                match effect:
                    case Persist(record):
                        log = (*log, record)
                    case Build(height, view):
                        waiting.append(Built(height, view, bytes([16 * number + view]) * 32))
                    case Check(_, block_id, _):
                        waiting.append(Checked(block_id))
                    case Decide(certificate):
                        decided = certificate.ballot.block_id
        names = []
        for order in self._orders:
            renamed = {KEYS[old]: new for old, new in zip(self._orders[0], order, strict=True)}
            described = describe(
                core,
                log if self.crashes_max else (),
                decided,
                {key: renamed.get(key, at) for at, key in enumerate(KEYS)},
            )
            key = (renamed.get(KEYS[number], number), described)
            names.append(self._numbers.setdefault(key, len(self._numbers)))
        whole = (number, names[0])
        if whole not in self.locals:
            votes = tuple(vote.ballot for kept in core._here.signed.votes.values() for vote in kept.values())
            says = self._numbers.setdefault(
                (number, votes, tuple(core._here.signed.proposals), decided), len(self._numbers)
            )
            self.locals[whole] = Local(core, log, decided, tuple(names), votes, says)
        return self.locals[whole]

    def _name(self, world: World, crashes: int) -> tuple:
        """The same for states that differ only in which of the alike validators is which."""
        return min(tuple(sorted(local.names[at] for local in world)) for at in range(len(self._orders))), crashes


def find_violation(world: World) -> str:
    if len({local.decided for local in world} - {None}) > 1:
        return "two blocks are decided"
    notarised = {item.ballot for local in world for item in local.core._here.held.notarised.values()}
    if len({ballot.view for ballot in notarised}) < len({(ballot.view, ballot.block_id) for ballot in notarised}):
        return "two blocks are notarised in one view"
    return ""


def name_part(who: int, votes: Iterable[Ballot], decided: bytes | None) -> tuple:
    """What one has voted for and decided: as much of a state as both searches know."""
    named = (
        (ballot.view, int(ballot.kind), ballot.parent, ballot.block_id) for ballot in votes if ballot.view <= VIEWS
    )
    return who, tuple(sorted(named)), decided or b""


def name_outcome(parts: Iterable[tuple]) -> tuple:
    """Alike validators have one name each, so that it makes no difference which of them is which."""
    return tuple(sorted(parts))


def find_alike(number: int, leaders: tuple[int, ...]) -> int:
    """Who stands for this validator: itself if it leads a view, else the last of those that lead none."""
    return number if number in leaders else max(other for other in HONEST if other not in leaders)


def list_steps(came: dict[tuple, tuple[tuple | None, str]], name: tuple) -> list[str]:
    steps: list[str] = []
    at: tuple | None = name
    while at is not None:
        at, step = came[at]
        steps.append(step)
    return steps[-2::-1]


def show(number: int, happens: tuple) -> str:
    words = [
        f"{type(item).__name__.lower()} {VoteKind(item.ballot.kind).name.lower()} {item.ballot.view}"
        f" of {item.ballot.block_id[:1].hex()}"
        for item in happens[1:]
    ]
    return f"{number} {happens[0]} {', '.join(words)}".rstrip()


def describe(core: Core, log: tuple, decided: bytes | None, names: dict[bytes, int]) -> tuple:
    """All of a core that matters for what it may still do."""
    kept = sorted((type(record).__name__, short(record.ballot)) for record in log)
    votes = sorted(short(vote.ballot) for votes in core._here.signed.votes.values() for vote in votes.values())
    notarised = tuple(sorted(short(item.ballot) for item in core._here.held.notarised.values()))
    if core.is_decided:  # it does nothing more, and others know of it what it has said
        return decided, tuple(votes), tuple(core._here.signed.proposals), notarised, tuple(kept)
    # Who has voted for what is certified matters no more.
    loose = []
    for ballot, count in core._here.tally.counts.items():
        if not core._here.held.has(ballot):
            loose.append((short(ballot), tuple(sorted(names[voter] for voter in count.votes))))
    return (
        core.view,
        core._here.signed.may_sign,
        tuple(sorted(short(item.ballot) for item in core._here._proposals.values())),
        notarised,
        tuple(sorted(core._here.held.nullified)),
        tuple(votes),
        tuple(kept),
        tuple(sorted(loose)),
    )


def short(ballot: Ballot) -> tuple:
    return ballot.view, int(ballot.kind), ballot.parent, ballot.block_id[:1], ballot.justification[:2]


def clone(core: Core, clone_tally: Callable[[Tally], Tally]) -> Core:
    """A core in the same state that goes its own way."""
    copy = _copy(core)
    here = copy._here = _copy(core._here)
    here.tally = clone_tally(core._here.tally)
    here.held = _copy(here.held)
    here.signed = _copy(here.signed)
    here.signed.votes = {kind: dict(votes) for kind, votes in here.signed.votes.items()}
    return copy


Part = TypeVar("Part", Core, Simplex, Held, Signed)


def _copy(part: Part) -> Part:
    copy = object.__new__(type(part))
    for name, value in vars(part).items():
        setattr(copy, name, value.copy() if isinstance(value, dict | set | list) else value)
    return copy


def clone_tally(tally: Tally) -> Tally:
    copy = Tally(tally._weights)
    copy.counts = {ballot: Count(count.weight, dict(count.votes)) for ballot, count in tally.counts.items()}
    # The liar is granted more: of its votes any number counts, not two of a kind and view.
    copy._by_voter = {key: cast for key, cast in tally._by_voter.items() if key[0] != KEYS[LIAR]}
    copy._bad = dict(tally._bad)
    copy._heard, copy._weight_heard = set(tally._heard), tally._weight_heard
    return copy


def list_votes(world: World, proposals: list[Proposal]) -> tuple[tuple[Ballot, tuple[int, ...]], ...]:
    """Who has voted for what: the liar for everything that there is."""
    votes: dict[Ballot, list[int]] = {Ballot(1, view, NULLIFY, 0, NOTHING, NOTHING): [] for view in (1, VIEWS)}
    for proposal in proposals:
        votes.setdefault(proposal.ballot, [])
    for number, local in enumerate(world):
        for ballot in local.votes:
            votes.setdefault(ballot, []).append(number)
    for ballot in list(votes):
        if ballot.kind == NOTARISE:
            votes.setdefault(Ballot(1, ballot.view, FINALISE, 0, ballot.block_id, NOTHING), [])
    return tuple((ballot, (*voters, LIAR)) for ballot, voters in votes.items() if ballot.view <= VIEWS)


def cast(voter: int, ballot: Ballot) -> Vote:
    return Vote(ballot, KEYS[voter], KEYS[voter] * 2)


def certify(ballot: Ballot, voters: tuple[int, ...]) -> Certificate:
    return Certificate(ballot, tuple(VoteSignature(KEYS[voter], KEYS[voter] * 2) for voter in sorted(voters)))


def propose(view: int, parent: int, block: bytes, why: Justification) -> Proposal:
    ballot = Ballot(1, view, NOTARISE, parent, block, NAMES.digest(why))
    return Proposal(ballot, why, KEYS[LIAR], KEYS[LIAR] * 2)


def find_seed(leaders: tuple[int, ...]) -> bytes:
    """A seed that has these validators lead the first views."""
    return next(
        seed
        for number in range(10_000)
        if all(
            draw_leader(VALIDATORS, seed := b"%d" % number, 1, at + 1) == KEYS[who] for at, who in enumerate(leaders)
        )
    )
