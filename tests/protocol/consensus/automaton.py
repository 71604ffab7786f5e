"""One honest validator as an automaton: the states that its core can be in, and what leads from one to the next.

Besides what it hears: its timer ends, it is woken, its shell answers what it asked for (late or never), and it dies and
comes back with its log, at any time, also between two records that one event has it keep. A block that is decided is
committed at once: who dies after that comes back at the next height, of which this is not. A late check matters when
its block can be voted for: what came before may as well come then, and is forgotten otherwise.

Validators that lead no view are alike: they share the states of one of them. This needs justifications to be known by
what their certificates are of, not by whose votes those hold (`Names`). Two proposals that differ in such votes only
are taken for one then, and votes for either count for both: more can happen, and nothing less, since nobody need hear
them.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

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
from protocol.consensus.messages import Justification, Proposal, Vote
from protocol.consensus.tally import Count, Tally
from protocol.ledger.block import Ballot, Certificate
from testnet.consensus.seat import NamedSignatures
from tests.protocol.consensus.plain import KEYS, VALIDATORS, clone

Log = tuple[Vote | Proposal | Certificate, ...]


class Names(NamedSignatures):
    """Signatures that are names, and digests that do not tell whose votes a certificate holds."""

    def digest(self, why: Justification) -> bytes:
        named = [[describe_ballot(item.ballot) for item in part] for part in (why.notarised, why.nullified)]
        return sha256(repr(named).encode()).digest()


@dataclass(frozen=True, eq=False)
class Said:
    """All that one validator has said, ever, and the states that it may be in then: others know no more of it."""

    number: int
    who: int
    votes: frozenset[Ballot]
    proposals: dict[Ballot, Proposal]
    locals: list["Local"] = field(default_factory=list)

    @property
    def words(self) -> int:
        return len(self.votes) + len(self.proposals)


@dataclass(frozen=True, eq=False)
class Local:
    """A state of one validator: the `bit`-th of those in which it has said the same. Its core is cloned to go on."""

    core: Core
    log: Log
    decided: bytes | None
    said: Said
    bit: int
    own: tuple[int, ...]  # what may happen to it without anything heard, by number
    afters: dict[int, tuple["Local", ...]] = field(default_factory=dict)  # by the number of what happens
    nexts: dict[int, tuple[int, tuple[tuple[Said, int], ...]]] = field(default_factory=dict)  # by that of stimuli


@dataclass
class Automaton:
    """All states found so far. Times out in views up to `views`; without `is_late` the shell answers at once."""

    seed: bytes
    views: int
    has_crashes: bool
    is_late: bool
    states: int = 0
    steps: int = 0
    happenings: list[tuple] = field(default_factory=list)
    _happening_numbers: dict[tuple, int] = field(default_factory=dict)
    _locals: dict[tuple, Local] = field(default_factory=dict)
    _saids: dict[tuple, Said] = field(default_factory=dict)
    _begun: dict[tuple, tuple[Local, ...]] = field(default_factory=dict)

    def start(self, who: int) -> Local:
        return self._begin(who, (), frozenset(), {})[0]

    def number(self, key: tuple, happening: tuple) -> int:
        """A number for something that can happen. Whatever has the same key does the same to all states."""
        found = self._happening_numbers.setdefault(key, len(self.happenings))
        if found == len(self.happenings):
            self.happenings.append(happening)
        return found

    def follow(self, local: Local, number: int) -> tuple[Local, ...]:
        """Where this may lead: more than one when it dies on the way."""
        known = local.afters.get(number)
        if known is None:
            self.steps += 1
            known = local.afters[number] = self._take(local, self.happenings[number])
        return known

    def _take(self, local: Local, happening: tuple) -> tuple[Local, ...]:
        what, *things = happening
        who, said = local.said.who, local.said
        if what == "dies":
            return self._begin(who, local.log, said.votes, said.proposals)
        core = clone(local.core, clone_tally)
        events: dict[str, list[Event]] = {
            "is woken": [Woken()],
            "times out": [TimedOut(1, core.view)],
            "has built": [build(who, core.view)],
            "has checked": [Checked(item.ballot.block_id) for item in list_unchecked(core)],
            "hears": [Heard(message) for message in things],
            "counts": [Heard(message) for message in things],
        }
        afters = self._do(core, local.log, who, said.votes, said.proposals, events[what])
        # Votes that complete nothing are as good as unheard: what they may complete later is heard with all of them.
        after = afters[0].core
        is_vain = what == "counts" and not (after.is_decided or after._here.held.has(things[0].ballot))
        return () if is_vain else afters

    def _begin(self, who: int, log: Log, votes: frozenset[Ballot], made: dict[Ballot, Proposal]) -> tuple[Local, ...]:
        key = who, describe_log(log), votes, frozenset(made)
        known = self._begun.get(key)
        if known is None:
            core = Core(KEYS[who], Names(KEYS[who]))
            events: list[Event] = [Began(1, VALIDATORS, self.seed, log=log)]
            if not self.is_late:
                events.append(Woken())
            known = self._begun[key] = self._do(core, log, who, votes, made, events)
        return known

    def _do(
        self,
        core: Core,
        log: Log,
        who: int,
        votes: frozenset[Ballot],
        made: dict[Ballot, Proposal],
        events: list[Event],
    ) -> tuple[Local, ...]:
        waiting = deque(events)
        grown: list[Log] = []
        decided = None
        while waiting:
            for effect in core.handle(waiting.popleft(), 0):
                match effect:
                    case Persist(record) if describe_log((record,)) - describe_log(log):
                        log = (*log, record)
                        grown.append(log)
                    case Build(_, view) if not self.is_late:
                        waiting.append(build(who, view))
                    case Check(_, block_id, _) if not self.is_late:
                        waiting.append(Checked(block_id))
                    case Decide(certificate):
                        decided = certificate.ballot.block_id
        if self.is_late:
            core._here._checked.clear()
        found = [self._name(core, log, decided, who, votes, made)]
        if self.has_crashes:
            # Dead after some of the records; after all of them too if it would have decided, which it then has not.
            for cut in grown if decided else grown[:-1]:
                found += self._begin(who, cut, votes, made)
        return tuple(found)

    def _name(
        self, core: Core, log: Log, decided: bytes | None, who: int, votes: frozenset[Ballot], made: dict
    ) -> Local:
        log = log if self.has_crashes else ()
        votes = votes | {vote.ballot for kept in core._here.signed.votes.values() for vote in kept.values()}
        made = made | {item.ballot: item for item in core._here.signed.proposals.values()}
        said_key = who, votes, frozenset(made)
        said = self._saids.get(said_key)
        if said is None:
            said = self._saids[said_key] = Said(len(self._saids), who, votes, made)
        key = said.number, decided, describe_log(log), describe(core)
        known = self._locals.get(key)
        if known is None:
            self.states += 1
            own = tuple(self.number(each, each) for each in self._list_own(core))
            known = self._locals[key] = Local(core, log, decided, said, len(said.locals), own)
            said.locals.append(known)
        return known

    def _list_own(self, core: Core) -> Iterator[tuple]:
        if core.is_decided:
            return
        if self.has_crashes:
            yield ("dies",)
        if not core.view:
            yield ("is woken",)
        elif core.view <= self.views:
            yield ("times out",)
        if is_building(core):
            yield ("has built",)
        if list_unchecked(core):
            yield ("has checked",)


def build(who: int, view: int) -> Built:
    return Built(1, view, bytes([16 * who + view]) * 32)


def is_building(core: Core) -> bool:
    return bool(core.view) and core._here._building == core.view and core.view not in core._here.signed.proposals


def list_unchecked(core: Core) -> list[Proposal]:
    """The proposal that may be voted for when its block is checked."""
    proposal = core._here._proposals.get(core.view)
    return [proposal] if proposal and proposal.ballot.block_id not in core._here._checked else []


def describe(core: Core) -> tuple:
    """All of a core that matters for what it may still do, and for what it must not have done."""
    notarised = frozenset(item.ballot for item in core._here.held.notarised.values())
    if core.is_decided:
        return (notarised,)
    # Who has voted for what is certified matters no more.
    counts = core._here.tally.counts.items()
    loose = frozenset((ballot, frozenset(count.votes)) for ballot, count in counts if not core._here.held.has(ballot))
    return (
        notarised,
        core.view,
        core._here.signed.may_sign,
        is_building(core),
        frozenset(item.ballot for item in core._here._proposals.values()),
        frozenset(core._here.signed.proposals),
        frozenset(core._here.held.nullified),
        frozenset(core._here._checked),
        frozenset(vote.ballot for kept in core._here.signed.votes.values() for vote in kept.values()),
        loose,
    )


def describe_log(log: Log) -> frozenset[tuple]:
    """Order and repetition in it make no difference, and neither does whose votes certify."""
    return frozenset((type(record), record.ballot) for record in log)


def describe_ballot(ballot: Ballot) -> tuple:
    return ballot.view, int(ballot.kind), ballot.parent, ballot.block_id, ballot.justification


def clone_tally(tally: Tally) -> Tally:
    """Without what it holds against voters: of the liar's votes any number counts, not two of a kind and view."""
    copy = object.__new__(Tally)
    vars(copy).update(vars(tally))
    copy.counts = {ballot: Count(count.weight, dict(count.votes)) for ballot, count in tally.counts.items()}
    copy._by_voter = {}
    copy._bad = {}
    copy._heard = set(tally._heard)
    return copy
