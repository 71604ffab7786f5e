"""Validators agreeing on a ledger in virtual time: the role nodes run, the real state machine, all else made up.

One seed is one run, to its last event. Until the weather calms things go wrong; after it every honest validator must
decide again within a bound. What is said travels as objects: bytes of messages are the business of other tests.
"""

import heapq
import random
from collections import deque
from typing import Any

from p2p.delay_line import CLEAR, Silence
from protocol.consensus.messages import verify_certified
from protocol.consensus.signatures import KeySignatures
from protocol.errors import ProtocolError
from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Certificate, compute_block_id, get_validators, make_final_ballot
from protocol.ledger.state import State, compute_supply
from protocol.messages import Blocks, CertifiedBlock, GetDraft, Head, Said, Transactions
from protocol.types import BP
from roles import role as seam
from roles.role import Decided, LedgerAdvanced, Received, Requested, RequestFailed, TimerFired
from roles.votelog import LogStart
from testnet.consensus.accounts import ACCOUNTS, START_MS, VARIANTS, make_signed, make_transaction, set_stage
from testnet.consensus.found import Found, describe
from testnet.consensus.liars import Liar
from testnet.consensus.mouths import Mouths
from testnet.consensus.seat import Applied, Disk, NamedSignatures, Seat
from testnet.consensus.weather import Weather, name_validators
from testnet.fault_kinds import Fault, combine, lasts
from testnet.faults import Crash, Pause

HEIGHTS = 5  # at least so many in every run
STORM_HEIGHTS = 3  # once there are so many, the accounts want less until the weather calms
STALL_MS = 60_000  # after the calm
EVENTS_MAX = 100_000
OFFER_MS = 300  # between two wishes of the accounts
SYNC_MS, IDLE_MS = 300, 2_000  # between two questions for blocks: with a higher one heard of, and without
DOOM_MS = 200  # how long a crash waits for something it may strike into
BLOCKS_MAX = 16  # in one answer
SHOWN_MAX = 40  # last events, for whoever looks into a failure
CONFIG = {"block_interval_ms": 100, "view_timer_ms": 300}


class Agreement:
    """The validators of one run, with whoever wants something of them."""

    def __init__(self, seed: int, weather: Weather) -> None:
        self.weather = weather
        self.found = Found()
        self.rng = random.Random(f"agreement/{seed}")
        self.now_ms = 0
        self.trace = seed
        self.target = 0  # the height everybody honest must reach, known once the weather has calmed
        self.last_events: deque[tuple[int, str, Any]] = deque(maxlen=SHOWN_MAX)
        self._seed = seed
        self._names = name_validators(weather.validators)
        self._stage = set_stage(weather.validators)
        self._supply = self._stage.genesis.supply
        self._heap: list[tuple[int, int, int, int, str, Any]] = []
        self._order = 0
        self._ways = [[CLEAR] * len(self._names) for _ in self._names]
        self._healed = False
        self._held: list[tuple[int, int, str, Any]] = []  # what clogged ways keep
        self._wanted: dict[int, tuple[int, int]] = {}  # an account's number and variant
        self.tip = self._stage.genesis
        self._mouths = Mouths(self.rng)
        self._applied = Applied()
        self.seats = [self._seat(index) for index in range(len(self._names))]
        self.honest = [seat for seat in self.seats if seat.liar is None]
        self._index = {seat.keys.node.public: index for index, seat in enumerate(self.seats)}
        for index in range(len(self.seats)):
            self._push(0, index, -1, "start", None)
        self._plan_faults()
        self._push(self.rng.randrange(OFFER_MS), -1, -1, "offer", None)
        self._push(weather.calm_ms, -1, -1, "calm", None)

    def run(self) -> Found:
        """Until everybody honest has decided after the calm, or it has taken too long."""
        heap, seats, found = self._heap, self.seats, self.found
        handlers = {name.removeprefix("_on_"): getattr(self, name) for name in dir(self) if name.startswith("_on_")}
        end_ms = self.weather.calm_ms + STALL_MS
        while heap and not self.is_done:
            at_ms, _, index, life, what, data = heapq.heappop(heap)
            if at_ms > end_ms or found.events > EVENTS_MAX or found.violations:
                break
            if life >= 0 and life != seats[index].life:
                continue
            if self._pauses and (end := self._get_pause_end(index, at_ms)) is not None:
                self._push(end, index, life, what, data)
                continue
            self.now_ms = at_ms
            found.events += 1
            self.trace = (self.trace * 1_000_003 + at_ms * 31 + index) & 0xFFFFFFFF
            self.last_events.append((at_ms, self._names[index] if index >= 0 else "network", (what, data)))
            handlers[what](index, data)
        self._judge()
        return found

    @property
    def is_done(self) -> bool:
        target = self.target
        return target > 0 and all(seat.disk.state.height >= target for seat in self.honest)

    def describe_last(self) -> tuple[str, ...]:
        """The last events, a line each."""
        return tuple(
            f"{at_ms:>7} ms  {name:<12} {what:<7} {describe(data)}" for at_ms, name, (what, data) in self.last_events
        )

    def find_forks(self) -> list[int]:
        """Heights at which two honest validators have decided differently."""
        chains = [[item.certificate.ballot.block_id for item in seat.disk.blocks] for seat in self.honest]
        longest = max(map(len, chains))
        return [h + 1 for h in range(longest) if len({chain[h] for chain in chains if len(chain) > h}) > 1]

    def _judge(self) -> None:
        violations = self.found.violations
        if forks := self.find_forks():
            violations.append(f"a fork at height {forks[0]}")
        if not self.is_done and not violations:
            heights = ", ".join(str(seat.height) for seat in self.honest)
            violations.append(f"a stall: honest validators are at {heights}, not at {self.target}")
        blamed = self.found.accused & {seat.disk.start.vote for seat in self.honest}
        if blamed:
            violations.append(f"honest validators are accused: {', '.join(sorted(key.hex()[:8] for key in blamed))}")
        guilty = {seat.keys.account.public for seat in self.seats if seat.liar is not None}
        slashed = {account for seat in self.honest for account in seat.disk.state.tombstones}
        self.found.slashed = len(slashed)
        if slashed - guilty:
            violations.append("an honest validator was slashed")

    # Beginning

    def _seat(self, index: int) -> Seat:
        weather, name = self.weather, self._names[index]
        keys = self._stage.keys[index]
        assert keys.vote is not None
        vote = keys.vote.public
        chain = self._stage.genesis.chain
        signatures = KeySignatures(chain, keys.vote) if weather.has_real_keys else NamedSignatures(vote)
        disk = Disk(self._stage.genesis, LogStart(chain, vote, 0))
        kinds, all_keys = dict(weather.liars), tuple(item.vote.public for item in self._stage.keys if item.vote)
        liar = None
        if name in kinds:
            rng = random.Random(f"liar/{self._seed}/{index}")
            liar = Liar(vote, kinds[name], rng, signatures, all_keys, self._mouths.twins)
        skew_ms, slow_ms = dict(weather.skews).get(name, 0), dict(weather.slow).get(name, 0)
        return Seat(name, keys, disk, signatures, weather.has_real_keys, self._applied, liar, skew_ms, slow_ms)

    def _plan_faults(self) -> None:
        names = {name: index for index, name in enumerate(self._names)}
        for named in self.weather.faults.list_faults():
            match named.fault:
                case Crash(node, at_ms, back_ms):
                    self._push(at_ms, names[node], -1, "crash", back_ms)
                case Pause():
                    pass
                case fault:
                    self._push(fault.start_ms, -1, -1, "ways", fault.kind)
                    self._push(fault.end_ms or self.weather.calm_ms, -1, -1, "ways", "")
        self._pauses = [(names[fault.node], fault.start_ms, fault.end_ms) for fault in self.weather.faults.pauses]

    # The weather

    def _get_pause_end(self, index: int, at_ms: int) -> int | None:
        """Until when a validator stands still; None while it does not."""
        for paused, start_ms, end_ms in self._pauses:
            if paused == index and start_ms <= at_ms < end_ms:
                return end_ms
        return None

    def _on_ways(self, _: int, kind: str) -> None:
        """A fault of the ways begins or ends: look at all of them again; what was held comes through where it may."""
        self.found.partitions += kind == "partition"
        self._healed |= not kind
        faults = self.weather.faults
        ways: tuple[Fault, ...] = (*faults.partitions, *faults.links)
        now = [fault for fault in ways if lasts(fault, self.now_ms)]
        for source, one in enumerate(self._names):
            for target, other in enumerate(self._names):
                self._ways[source][target] = combine(now, one, other)
        held, self._held = self._held, []
        for source, target, what, data in held:
            self._carry(source, target, what, data)

    def _on_calm(self, _: int, __: None) -> None:
        """From now on nothing goes wrong: everybody honest has to decide once more."""
        self.target = max(HEIGHTS, self.tip.height + 1)
        for seat in self.seats:
            seat.skew_ms = seat.slow_ms = 0

    def _on_crash(self, index: int, back_ms: int) -> None:
        """A planned crash: between two effects of what is done next, or idle."""
        seat = self.seats[index]
        if seat.role is not None and not seat.is_doomed:
            seat.is_doomed = True
            self._push(self.now_ms + DOOM_MS, index, seat.life, "doom", None)
            self._push(max(back_ms, self.now_ms + DOOM_MS + 1), index, -1, "start", None)

    def _on_doom(self, index: int, _: None) -> None:
        self._die(index)

    def _die(self, index: int) -> None:
        seat = self.seats[index]
        seat.disk.tear(self.rng)
        self.found.torn += seat.disk.is_torn
        self.found.crashes += seat.liar is None
        if seat.name in self.weather.forgetful and not seat.disk.start.is_after_loss and not self.found.forgotten:
            self.found.forgotten += 1
            seat.disk.forget()
        seat.stop()
        self.found.has_power_loss |= all(other.role is None for other in self.seats)

    def _on_start(self, index: int, _: None) -> None:
        seat = self.seats[index]
        if seat.role is not None:
            return
        self.found.restarts += seat.life > 0 and seat.liar is None
        rng = random.Random(f"node/{self._seed}/{index}/{seat.life}")
        self._tell(index, seat.start(rng, CONFIG))
        self._push(self.now_ms + 50 + self.rng.randrange(SYNC_MS), index, seat.life, "sync", None)

    # What the accounts want

    def _on_offer(self, _: int, __: None) -> None:
        """Somebody tells one or two validators of a transaction; of the same one until it has settled."""
        rng, state = self.rng, self.tip
        for _ in range(rng.choice((1, 1, 2))):
            account = rng.randrange(ACCOUNTS)
            nonce = state.get_nonce(self._stage.accounts[account].public)
            known = self._wanted.get(account, (-1, 0))
            if known[0] != nonce or rng.random() < 0.3:  # otherwise a different one under the same number, at times
                known = self._wanted[account] = nonce, rng.randrange(VARIANTS)
            data = make_transaction(self.weather.validators, account, *known)
            for target in rng.sample(range(len(self.seats)), rng.choice((1, 2))):
                self._push(self.now_ms + rng.randrange(1, 20), target, -1, "txs", data)
        is_storm = self.now_ms < self.weather.calm_ms
        pause = 6 if is_storm and self.tip.height >= STORM_HEIGHTS else 1
        self._push(self.now_ms + pause * rng.randrange(OFFER_MS // 2, OFFER_MS * 3 // 2), -1, -1, "offer", None)

    def _on_txs(self, index: int, data: bytes) -> None:
        liar = self.seats[index].liar
        if liar is None or liar.hears_causes:
            self._tell(index, Received(b"", Transactions((data,)), "txs"))

    # What validators do

    def _tell(self, index: int, event: seam.Event) -> None:
        """Something happens to a validator that is up; what it wants is done."""
        seat = self.seats[index]
        if seat.role is None:
            return
        effects = seat.role.handle(event, START_MS + seat.read_clock(self.now_ms))
        if seat.is_doomed and effects:
            self._carry_out(index, effects[: self.rng.randrange(len(effects) + 1)], is_last=True)
            if seat.role is not None:
                self._die(index)
        else:
            self._carry_out(index, effects)

    def _on_tell(self, index: int, event: seam.Event) -> None:
        self._tell(index, event)

    def _carry_out(self, index: int, effects: list[seam.Effect], is_last: bool = False) -> None:
        """In order. Votes are synced before anything leaves; a crash may come right after that."""
        seat = self.seats[index]
        life = seat.life
        for effect in effects:
            match effect:
                case seam.LogVote(record):
                    seat.disk.write(record)
                    continue
                case seam.SetTimer(name, at_ms):
                    self._set_timer(index, name, at_ms)
                    continue
                case seam.Record(name, fields):
                    if name == "validator.accused" and seat.liar is None:
                        self.found.accused.add(fields["vote"])
                    continue
            if seat.disk.unsynced and not self._sync(index):
                return
            self._carry_one(index, effect)
            if seat.life != life:
                return
        if not is_last and seat.disk.unsynced:
            self._sync(index)

    def _carry_one(self, index: int, effect: seam.Effect) -> None:
        seat = self.seats[index]
        match effect:
            case seam.Send(peer, _, Said() as said):
                self._say(index, self._index[peer], said)
            case seam.Request(peer, _, question, token, timeout_ms):
                self._push(self.now_ms + timeout_ms, index, seat.life, "tell", RequestFailed(peer, token, "timeout"))
                self._carry(index, self._index[peer], "ask", (index, seat.life, token, question))
            case seam.Reply(token, answer):
                if token:
                    source, life, own = token.split("/")
                    event = Received(seat.keys.node.public, answer, token=own)
                    self._carry(index, int(source), "answer", (int(life), event))
            case seam.Publish(_, Head(header)):
                for other in range(len(self.seats)):
                    self._carry(index, other, "head", header.height)
            case seam.Submit(Decided(block, certificate, state)):
                if state.height == seat.height + 1 and block.header.parent == seat.disk.state.block_id:
                    self._commit(index, CertifiedBlock(block, certificate), state)
            case seam.Submit(body, "evidence"):
                if self.weather.has_real_keys and seat.liar is None:
                    nonce = seat.disk.state.get_nonce(seat.keys.account.public)
                    data = make_signed(seat.disk.state, seat.keys.account, nonce, body)
                    self._push(self.now_ms + 1, index, -1, "txs", data)
            case seam.CatchUp(peer, _):
                self._carry(index, self._index[peer], "get", (index, seat.life, seat.height + 1))
            case seam.Halt(reason) if seat.liar is None:
                self.found.violations.append(f"{seat.name} halts: {reason}")

    def _set_timer(self, index: int, name: str, at_ms: int) -> None:
        seat = self.seats[index]
        number = seat.timers[name] = self._order + 1
        real_ms = max(self.now_ms, at_ms - START_MS - seat.skew_ms)
        self._push(real_ms, index, seat.life, "timer", (name, number))

    def _on_timer(self, index: int, timer: tuple[str, int]) -> None:
        name, number = timer
        if self.seats[index].timers.get(name) == number:
            self._tell(index, TimerFired(name))

    def _commit(self, index: int, item: CertifiedBlock, state: State) -> None:
        seat = self.seats[index]
        if compute_supply(state) != self._supply:
            self.found.violations.append(f"supply is {compute_supply(state)} at height {state.height}")
        seat.disk.commit(item, state)
        if seat.liar is None:
            has_changed = item.certificate.ballot.view > 1
            self.found.has_view_change |= has_changed
            self.found.has_late_view_change |= has_changed and self._healed
            if state.height > self.tip.height:
                self.tip = state
                self.found.transactions += len(item.block.transactions)
        self._tell(index, LedgerAdvanced(state, decode_transactions(item.block), item.certificate))

    def _sync(self, index: int) -> bool:
        """Sync what was written. False for whoever dies over it: before anything is kept, half-way, or right after."""
        weather, disk = self.weather, self.seats[index].disk
        is_struck = weather.crash_bp and self.now_ms < weather.calm_ms and self.rng.randrange(BP) < weather.crash_bp
        if is_struck and self.rng.random() < 0.3:
            disk.tear(self.rng)
        else:
            disk.sync()
        if is_struck:
            self._die(index)
            self._push(self.now_ms + self.rng.randrange(50, 2_000), index, -1, "start", None)
        return not is_struck

    # Blocks of others

    def _on_head(self, index: int, height: int) -> None:
        seat = self.seats[index]
        if seat.role is not None and height > seat.height_heard:
            seat.height_heard = height

    def _on_sync(self, index: int, _: None) -> None:
        """Ask somebody for blocks, again and again, as the follower of a node does."""
        seat = self.seats[index]
        other = self.rng.randrange(len(self.seats))
        self._carry(index, other, "get", (index, seat.life, seat.height + 1))
        pause_ms = SYNC_MS if seat.height_heard > seat.height else IDLE_MS
        self._push(self.now_ms + pause_ms, index, seat.life, "sync", None)

    def _on_get(self, index: int, question: tuple[int, int, int]) -> None:
        source, life, height = question
        seat = self.seats[index]
        if seat.role is None:
            return
        items = tuple(seat.disk.blocks[height - 1 : height - 1 + BLOCKS_MAX])
        if seat.liar is not None:
            items = self._mouths.offer(seat.liar, items, seat.disk.blocks)
        if items or seat.height >= height:
            self._carry(index, source, "blocks", (life, Blocks(seat.height, items)))

    def _on_blocks(self, index: int, answer: tuple[int, Blocks]) -> None:
        life, blocks = answer
        seat = self.seats[index]
        for item in blocks.items:
            if seat.life != life or seat.role is None:
                return
            state = seat.disk.state
            if item.block.header.height != state.height + 1:
                continue
            try:
                self._verify_decided(seat, item.certificate, item)
                after = self._applied.apply(state, item.block)
            except ProtocolError:
                return
            self._commit(index, item, after)
        seat.height_heard = max(seat.height_heard, seat.height)

    def _verify_decided(self, seat: Seat, certificate: Certificate, item: CertifiedBlock) -> None:
        """InvalidVote unless the validators after a seat's ledger have decided the block."""
        header = item.block.header
        ballot = make_final_ballot(header.height, certificate.ballot.view, compute_block_id(header))
        weights = {validator.vote: validator.weight for validator in get_validators(seat.disk.state)}
        verify_certified(Certificate(ballot, certificate.votes), weights, seat.signatures)

    # What validators say to each other

    def _say(self, source: int, target: int, said: Said) -> None:
        seat = self.seats[source]
        if seat.liar is None:
            self._carry(source, target, "said", (source, said))
            return
        told = self._mouths.retell(seat, said, target)
        if told is not None:
            self.found.has_lying_proposer |= any(item.proposal.leader == seat.liar.key for item in told.proposed)
            self._carry(source, target, "said", (source, told))

    def _on_said(self, index: int, words: tuple[int, Said]) -> None:
        source, said = words
        liar = self.seats[index].liar
        if liar is not None and not liar.hears_causes:
            said = Said(said.proposed, said.certificates, said.votes, ())
        self._tell(index, Requested(self.seats[source].keys.node.public, said, "consensus", ""))

    def _on_ask(self, index: int, asked: tuple[int, int, str, GetDraft]) -> None:
        source, life, token, question = asked
        seat = self.seats[index]
        if seat.liar is not None and seat.role is not None:
            answer = self._mouths.answer(seat.liar, question, source)
            if answer is not None:
                event = Received(seat.keys.node.public, answer, token=token)
                self._carry(index, source, "answer", (life, event))
                return
        sender = self.seats[source].keys.node.public
        self._tell(index, Requested(sender, question, "consensus", f"{source}/{life}/{token}"))

    def _on_answer(self, index: int, answer: tuple[int, Received]) -> None:
        life, event = answer
        if self.seats[index].life == life:
            self._tell(index, event)

    # Ways

    def _carry(self, source: int, target: int, what: str, data: Any) -> None:
        """Over one way, through whatever is wrong with it."""
        if source == target:
            return
        way, faults, rng = self._ways[source][target], self.weather.faults, self.rng
        delay_ms, copies = faults.latency_ms + way.delay_ms, 1
        if self.now_ms < self.weather.calm_ms:
            if way.silence:
                if way.silence is Silence.STALL:
                    self._held.append((source, target, what, data))
                return
            if faults.loss_bp and rng.random() * BP < faults.loss_bp:
                return
            if faults.duplicate_bp and rng.random() * BP < faults.duplicate_bp:
                copies = 2
            delay_ms += self.seats[source].slow_ms + self.seats[target].slow_ms
        for _ in range(copies):
            self._push(self.now_ms + delay_ms + int(rng.random() * faults.jitter_ms), target, -1, what, data)

    def _push(self, at_ms: int, index: int, life: int, what: str, data: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, index, life, what, data))
