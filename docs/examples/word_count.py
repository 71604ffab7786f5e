"""A role of your own: nodes that count the words of a text for each other, with messages on a topic of their own.

It lives outside rolemesh's packages and touches none of their files. Put its directory on PYTHONPATH, then:

    rolemesh testnet up --roles validator=1,storage=1,word_count:WordCount=3     # real processes
    simulate(seed=1, roles={"validator": 1, "word_count:WordCount": 3})          # virtual time

Every node asks the others about the text in its options, and says so once two of them have found the same count.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from protocol.check import Checked, register_check
from protocol.ledger.state import State
from protocol.registry import message, register_topic
from protocol.types import AtMost, Digest, UpTo, Verdict
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    Event,
    Publish,
    Received,
    Record,
    Role,
    SetTimer,
    Started,
    TimerFired,
)

TEXT_BYTES_MAX = 4 * 1024
QUESTIONS_MAX = 64  # of ours, not yet answered
FIRST_MS = 2_000  # until the others are likely to be there
AGAIN_MS = 1_000  # gossip may lose a message
TRIES_MAX = 20


@message(0x8001, "words.question")
@dataclass(frozen=True)
class Question:
    """How many words has this text?"""

    text: Annotated[str, AtMost(TEXT_BYTES_MAX)]
    attempt: Annotated[int, UpTo(TRIES_MAX)]


@message(0x8002, "words.tally")
@dataclass(frozen=True)
class Tally:
    """The sender counted so many words in the text with this sha256."""

    digest: Digest
    words: Annotated[int, UpTo(TEXT_BYTES_MAX)]


register_topic("words", frozenset({0x8001, 0x8002}), ("wordcount",), "texts and how many words they have")


def check_question(topic: str, sender: bytes, question: Question, state: State, now_ms: int) -> Checked:
    """Runs before the message is forwarded: a text without words is nobody's question."""
    if not question.text.split():
        return Verdict.REJECT, "there is nothing to count"
    return Verdict.ACCEPT, ""


register_check(Question, check_question)


class WordCount(Role):
    """Counts words for others, and asks them about its own text. `config`: `text`, and `agree`, how many must agree."""

    name = "wordcount"
    topics = ("words",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._text = str(context.config.get("text", "the quick brown fox jumps over the lazy dog"))
        self._agree = int(context.config.get("agree", 2))
        self._questions: dict[bytes, Question] = {}
        self._tallies: dict[bytes, dict[bytes, int]] = {}  # digest -> who counted -> words

    @property
    def load(self) -> int:
        return len(self._questions)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started():
                return [SetTimer("first", now_ms + FIRST_MS)]
            case TimerFired("first"):
                return self._ask(self._text, now_ms)
            case TimerFired("again"):
                return self._ask_again(now_ms)
            case Commanded(str(text)):
                return self._ask(text, now_ms)
            case Received(message=Question(text)):
                return [Publish("words", Tally(compute_digest(text), len(text.split())))]
            case Received(sender, Tally(digest, words)):
                return self._gather(sender, digest, words)
            case _:
                return []

    def _ask(self, text: str, now_ms: int) -> list[Effect]:
        if not text.split() or len(text.encode()) > TEXT_BYTES_MAX or len(self._questions) >= QUESTIONS_MAX:
            return [Deliver(f"a question has words and at most {TEXT_BYTES_MAX} bytes, and {QUESTIONS_MAX} may wait")]
        question = Question(text, 0)
        self._questions[compute_digest(text)] = question
        return [Publish("words", question), SetTimer("again", now_ms + AGAIN_MS)]

    def _ask_again(self, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for digest, question in list(self._questions.items()):
            if question.attempt == TRIES_MAX:
                self._forget(digest)
                effects += [Record("words.unanswered", {"digest": digest}), Deliver((question.text, None))]
                continue
            self._questions[digest] = Question(question.text, question.attempt + 1)
            effects.append(Publish("words", self._questions[digest]))
        return [*effects, SetTimer("again", now_ms + AGAIN_MS)] if self._questions else effects

    def _gather(self, sender: bytes, digest: bytes, words: int) -> list[Effect]:
        if digest not in self._questions:
            return []
        tallies = self._tallies.setdefault(digest, {})
        tallies[sender] = words
        words, votes = Counter(tallies.values()).most_common(1)[0]
        if votes < self._agree:
            return []
        text = self._questions[digest].text
        self._forget(digest)
        return [Record("words.agreed", {"digest": digest, "words": words, "votes": votes}), Deliver((text, words))]

    def _forget(self, digest: bytes) -> None:
        del self._questions[digest]
        self._tallies.pop(digest, None)


def compute_digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
