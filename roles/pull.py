"""Finds and fetches what gossip lost: now and then one peer hears, as a filter, what we have, and gives us the rest.

Gossip is the fast path; this one only has to end complete. Peers take turns; who has just connected comes first, since
behind a healed partition lies what we missed. Every second turn goes to who had something for us, or asked about what
we do not know. While there is news we ask often, and when there is none rarely.
"""

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

from protocol.errors import RemoteError
from protocol.ledger.state import State
from protocol.messages import MISSED_TOPICS_MAX, GetMissed, Missed, MissedItem
from protocol.sketch import SALT_SIZE
from protocol.types import Verdict
from roles.backlog import KEPT_MS, Backlog, is_pulled
from roles.core_effects import Log, NetPenalise
from roles.courier import Courier, Out
from roles.mailbox import Mailbox

PAUSE_MS_MIN = 500
PAUSE_MS_MAX = 2_000  # doubled up to this while there is no news
ASK_TIMEOUT_MS = 2_000
HOPEFUL_MAX = 16
RECENT_MS = 20_000  # most questions go back so far
FULL_EVERY = 4  # and one of so many as far as anything is kept
ANSWERS_MS = 1_000
ANSWERS_PER_PEER_MAX = 4  # within ANSWERS_MS; beyond it the answer is short
ANSWERS_MAX = 16


@dataclass(frozen=True)
class Pulled:
    """A message that gossip had not brought, checked as if it had."""

    sender: bytes
    topic: str
    message: Any


class Puller:
    """Asks for the topics this node listens to, one peer at a time, and answers those who ask it."""

    def __init__(self, topics: tuple[str, ...], mailbox: Mailbox, courier: Courier, rng: random.Random) -> None:
        self.backlog = Backlog()
        self._topics = tuple(topic for topic in topics if is_pulled(topic))[:MISSED_TOPICS_MAX]
        self._mailbox = mailbox
        self._courier = courier
        self._rng = rng
        self._turns: deque[bytes] = deque()
        self._hopeful: deque[bytes] = deque(maxlen=HOPEFUL_MAX)
        self._new: set[bytes] = set()  # not asked yet since they connected
        self._asked: tuple[bytes, GetMissed] | None = None
        self._asked_count = 0
        self._pause_ms = PAUSE_MS_MIN
        self._due_ms = 0
        self._answers: dict[bytes, int] = {}
        self._answers_since_ms = 0

    def start(self, now_ms: int) -> list[Out]:
        return [self._wake(now_ms + PAUSE_MS_MIN)]

    def note_up(self, peer: bytes, now_ms: int) -> list[Out]:
        """A peer connected: it is asked next, and soon."""
        if peer not in self._turns:
            self._turns.appendleft(peer)
        self._new.add(peer)
        return self._hurry(now_ms)

    def note_down(self, peer: bytes) -> None:
        self._new.discard(peer)
        for line in (self._turns, self._hopeful):
            if peer in line:
                line.remove(peer)

    def hint(self, peer: bytes, now_ms: int) -> list[Out]:
        """A peer knows of something we should have heard of."""
        if peer not in self._turns:
            return []
        self._hope_for(peer)
        return self._hurry(now_ms)

    def keep_own(self, topic: str, envelope: bytes, now_ms: int) -> None:
        """This node publishes: whoever misses it can have it from us."""
        if is_pulled(topic):
            self.backlog.keep(topic, envelope, self._mailbox.open_own(topic, envelope), now_ms)

    def on_timer(self, is_synced: bool, now_ms: int) -> list[Out]:
        """Ask the next peer. Until the ledger is followed nothing could be judged, and blocks come first."""
        again = self._wake(now_ms + self._pause_ms + self._rng.randrange(self._pause_ms // 4 + 1))
        self._pause_ms = min(2 * self._pause_ms, PAUSE_MS_MAX)
        if self._asked is not None or not self._turns or not is_synced:
            return [again]
        return [*self._ask(self._choose(), now_ms), again]

    def on_answer(self, peer: bytes, message: Any, ledger: State, now_ms: int) -> tuple[list[Out], list[Pulled]]:
        """What a peer gave us: what is to be done, and what is new."""
        asked, self._asked = self._asked, None
        if asked is None or not isinstance(message, Missed):
            return [], []
        self._new.discard(peer)
        out: list[Out] = []
        found: list[Pulled] = []
        for item in message.items:
            fault = self._take(item, asked[1], ledger, now_ms, found)
            if fault:
                out.append(NetPenalise(peer, f"what it says we missed: {fault}"))
                break
        if found:
            fields = {"peer": peer, "messages": len(found), "left": message.left}
            out.append(Log("gossip.pulled", fields))
            self._hope_for(peer)
            out += self._ask(peer, now_ms) if message.left else self._hurry(now_ms)
        return out, found

    def on_news(self, now_ms: int) -> list[Out]:
        """A peer had blocks that nobody told us of: ask more often."""
        return self._hurry(now_ms)

    def on_unanswered(self) -> list[Out]:
        self._asked = None
        return []

    def answer(self, peer: bytes, question: GetMissed, tip: int, now_ms: int) -> Missed:
        """What a peer missed. Who asks too often, or asks while too many do, hears no more than our height."""
        if not 0 <= now_ms - self._answers_since_ms < ANSWERS_MS:
            self._answers, self._answers_since_ms = {}, now_ms
        count = self._answers.get(peer, 0)
        if count >= ANSWERS_PER_PEER_MAX or sum(self._answers.values()) >= ANSWERS_MAX:
            return Missed(tip, 0, ())
        self._answers[peer] = count + 1
        return self.backlog.answer(question, tip, now_ms)

    def _choose(self) -> bytes:
        if self._hopeful and self._asked_count % 2:
            return self._hopeful.popleft()
        self._turns.rotate(-1)
        return self._turns[-1]

    def _hope_for(self, peer: bytes) -> None:
        if peer not in self._hopeful:
            self._hopeful.append(peer)

    def _ask(self, peer: bytes, now_ms: int) -> list[Out]:
        self._asked_count += 1
        is_full = peer in self._new or self._rng.randrange(FULL_EVERY) == 0
        since_ms = max(0, now_ms - (KEPT_MS if is_full else RECENT_MS))
        question = self.backlog.ask(self._topics, since_ms, self._rng.randbytes(SALT_SIZE), now_ms)
        self._asked = peer, question
        return [self._courier.request(peer, "sync", question, "pull", ASK_TIMEOUT_MS, now_ms)]

    def _hurry(self, now_ms: int) -> list[Out]:
        self._pause_ms = PAUSE_MS_MIN
        # Never later than planned: news after news must not put the next question off.
        return [self._wake(min(self._due_ms, now_ms + PAUSE_MS_MIN))]

    def _wake(self, at_ms: int) -> Out:
        self._due_ms = at_ms
        return self._courier.wake("pull", at_ms)

    def _take(self, item: MissedItem, asked: GetMissed, ledger: State, now_ms: int, found: list[Pulled]) -> str:
        """Judge one message as gossip would; the reason when it is its bringer's fault."""
        topic, envelope = item.topic, item.envelope
        if topic not in asked.topics:
            return f"{topic!r} was not asked for"
        try:
            name = self._mailbox.read_name(topic, envelope)
        except RemoteError as error:
            return str(error) if error.verdict is Verdict.REJECT else ""
        if self.backlog.has(name):
            return ""
        verdict, reason, opened = self._mailbox.check_pulled(topic, envelope, ledger, KEPT_MS, now_ms)
        if verdict is Verdict.REJECT:
            return reason
        if opened is None:
            self.backlog.note_unfit(name, now_ms)
            return ""
        self.backlog.keep(topic, envelope, opened, now_ms)
        found.append(Pulled(opened.sender, topic, opened.message))
        return ""
