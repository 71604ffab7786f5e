"""What a validator is about to say, gathered over one turn: each peer gets it as one message, on the direct stream."""

from collections.abc import Collection, Iterable

from protocol.consensus.messages import Message, Proposal, Vote
from protocol.ledger.block import Certificate
from protocol.messages import CERTIFICATES_MAX, PROPOSED_MAX, SAID_VOTES_MAX, Outline, Proposed, Said
from roles.drafts import Drafts
from roles.role import Effect, Publish, Send

SAID_TIMEOUT_MS = 3_000
SAID = "said-"  # how the tokens of what was said begin
ACCEPTANCE_MS = 1_000  # between two words that a peer is to accept: who is deaf is known soon enough


class Speech:
    """Broadcasts of one turn, without repetition, and what only one peer is told."""

    def __init__(self) -> None:
        self._to_all: dict[Message, None] = {}
        self._causes: tuple[bytes, ...] = ()
        self._woken: bytes | None = None  # who alone is sent them
        self._to_one: dict[bytes, dict[Message, None]] = {}
        self._count = 0
        self._tested_ms: dict[bytes, int] = {}  # when each peer was last asked to accept a word

    def add(self, message: Message) -> None:
        self._to_all[message] = None

    def add_for(self, peer: bytes, message: Message) -> None:
        self._to_one.setdefault(peer, {})[message] = None

    def add_causes(self, causes: tuple[bytes, ...], peer: bytes | None = None) -> None:
        """What others are to be woken by, or one of them."""
        self._causes, self._woken = causes, peer

    def take(
        self, peers: Iterable[bytes], drafts: Drafts, now_ms: int, deaf: Collection[bytes], is_public: bool
    ) -> list[Effect]:
        """All of it as effects, and begin anew. With `is_public`, what is for all goes out by gossip as well."""
        if not (self._to_all or self._to_one or self._causes):
            return []
        effects: list[Effect] = []
        to_all = _join(tuple(self._to_all), () if self._woken else self._causes, drafts)
        if is_public and to_all is not None:
            effects.append(Publish("consensus", to_all))
        for peer in peers:
            for_one = self._to_one.pop(peer, {})
            causes = self._causes if self._woken in (None, peer) else ()
            is_common = not for_one and peer != self._woken
            said = to_all if is_common else _join(tuple({**self._to_all, **for_one}), causes, drafts)
            if said is not None:
                token = self._draw_token(peer, now_ms, peer in deaf)
                effects.append(Send(peer, "consensus", said, token, SAID_TIMEOUT_MS))
        self._to_all, self._to_one, self._causes, self._woken = {}, {}, (), None
        return effects

    def _draw_token(self, peer: bytes, now_ms: int, is_deaf: bool) -> str:
        """None most of the time, unless we wait for the peer to hear: else there would be twice as many messages."""
        if not is_deaf and now_ms - self._tested_ms.get(peer, -ACCEPTANCE_MS) < ACCEPTANCE_MS:
            return ""
        self._tested_ms[peer] = now_ms
        self._count += 1
        return f"{SAID}{self._count}"


def _join(messages: tuple[Message, ...], causes: tuple[bytes, ...], drafts: Drafts) -> Said | None:
    """None for nothing."""
    proposals = [item for item in messages if isinstance(item, Proposal)]
    if proposals:
        causes = ()  # a proposal wakes whoever can check it: nothing else is needed then
    elif not messages and not causes:
        return None
    return Said(
        tuple(Proposed(item, _find_outline(item, drafts)) for item in proposals[-PROPOSED_MAX:]),
        tuple(item for item in messages if isinstance(item, Certificate))[-CERTIFICATES_MAX:],
        tuple(item for item in messages if isinstance(item, Vote))[-SAID_VOTES_MAX:],
        causes,
    )


def _find_outline(proposal: Proposal, drafts: Drafts) -> tuple[Outline, ...]:
    outline = drafts.get_outline(proposal.ballot.block_id)
    return () if outline is None else (outline,)
