"""Gets an account's transactions onto the ledger: numbers, signs, gossips, repeats, asks a validator if that fails.

One sequencer per account, so transactions sent side by side never race for a nonce. A transaction is settled when a
block holds the account's nonce; a refused one is dropped and those behind it are numbered anew.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from protocol.codec import encode
from protocol.errors import InvalidTransaction
from protocol.keys import Signer
from protocol.ledger.apply import check_transaction
from protocol.ledger.errors import NotYet
from protocol.ledger.fees import compute_base_fee, with_fee
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, get_transaction_kind
from protocol.messages import GOSSIP_LIST_MAX, Accepted, Refused, Transactions
from protocol.signing import sign
from roles.core_effects import Log
from roles.courier import Courier, Out, ToRoles
from roles.packing import pack
from roles.role import Received, Submitted

IN_FLIGHT_MAX = 16
WAITING_MAX = 1_024
VALID_MS = 60_000
REPEAT_MS = 1_000
GOSSIP_TRIES = 2
ASK_TIMEOUT_MS = 3_000
DROPPED_MAX = 128  # looked at in one turn, a tenth of a millisecond each


@dataclass
class _Pending:
    body: Any
    role: int
    token: str
    nonce: int = 0
    wire: bytes = b""
    valid_until_ms: int = 0
    tries: int = 0


class Submitter:
    """The transactions of one account that are not yet on the ledger, oldest first.

    `listeners` are the places of this node's own roles that take transactions in: gossip does not come back to us.
    """

    def __init__(self, signer: Signer, node: bytes, chain: bytes, courier: Courier, listeners: tuple[int, ...]) -> None:
        self._signer = signer
        self._node = node
        self._listeners = listeners
        self._chain = chain
        self._courier = courier
        self._waiting: deque[_Pending] = deque()
        self._in_flight: deque[_Pending] = deque()
        self._asking: _Pending | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    def verify(self, body: Any, state: State, now_ms: int) -> None:
        """InvalidTransaction if the ledger would refuse this now, were nothing of ours on its way."""
        unsigned = self._draft(body, state.get_nonce(self._signer.public), state, now_ms)
        check_transaction(state, unsigned, now_ms, check_signatures=False)

    def submit(self, body: Any, role: int, token: str, state: State, now_ms: int) -> list[Out]:
        if len(self._waiting) >= WAITING_MAX:
            return [ToRoles(Submitted(token, None, f"{WAITING_MAX} transactions wait already"), role)]
        self._waiting.append(_Pending(body, role, token))
        return self._send_waiting(state, now_ms)

    def on_ledger(self, state: State, transactions: tuple[Transaction, ...], now_ms: int) -> list[Out]:
        """A new block: tell those whose transaction it holds, send what waits."""
        out: list[Out] = []
        for transaction in transactions:
            if transaction.account != self._signer.public:
                continue
            while self._in_flight and self._in_flight[0].nonce < transaction.nonce:
                self._waiting.appendleft(self._in_flight.popleft())
            if self._in_flight and self._in_flight[0].nonce == transaction.nonce:
                done = self._in_flight.popleft()
                if encode(done.body) == transaction.body:
                    out.append(ToRoles(Submitted(done.token, state.height), done.role))
                else:  # another process spends from this account: ours goes again with a later number
                    self._waiting.appendleft(done)
                    self._renumber()
        return [*out, *self._send_waiting(state, now_ms)]

    def on_timer(self, state: State, is_synced: bool, validators: tuple[bytes, ...], now_ms: int) -> list[Out]:
        """Repeat what has not been decided; ask a validator about the oldest when gossip has failed twice.

        `is_synced`: whether `state` is as new as anyone's.
        """
        refused = self._drop_refused(state, now_ms) if is_synced else []
        return [*refused, *self._repeat(state, validators, now_ms)]

    def _drop_refused(self, state: State, now_ms: int) -> list[Out]:
        """Give up the oldest while our own ledger refuses it: validators would too, but are asked one by one."""
        if not self._in_flight or not self._find_refusal(self._in_flight[0].body, state, now_ms):
            return []
        self._asking = None
        self._renumber()
        out: list[Out] = []
        for _ in range(DROPPED_MAX):
            if not self._waiting or not (reason := self._find_refusal(self._waiting[0].body, state, now_ms)):
                break
            out += self._tell_refused(self._waiting.popleft(), reason)
        return [*out, *self._send_waiting(state, now_ms)]

    def _find_refusal(self, body: Any, state: State, now_ms: int) -> str:
        try:
            self.verify(body, state, now_ms)
        except NotYet:
            return ""
        except InvalidTransaction as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _repeat(self, state: State, validators: tuple[bytes, ...], now_ms: int) -> list[Out]:
        if not self._in_flight:
            return []
        for pending in self._in_flight:
            pending.tries += 1
            if now_ms > pending.valid_until_ms - REPEAT_MS:
                self._sign(pending, pending.nonce, state, now_ms)
        out: list[Out] = [self._courier.wake("submit", now_ms + REPEAT_MS)]
        oldest = self._in_flight[0]
        if oldest.tries > GOSSIP_TRIES and self._asking is None and validators:
            self._asking = oldest
            peer = validators[oldest.tries % len(validators)]
            question = Transactions((oldest.wire,))
            out.append(self._courier.request(peer, "txs", question, "submit", ASK_TIMEOUT_MS, now_ms))
        return [*out, *self._gossip(tuple(self._in_flight), now_ms)]

    def on_answer(self, message: Any, state: State, now_ms: int) -> list[Out]:
        """A validator's word about the oldest: taken, or refused with a reason."""
        asked, self._asking = self._asking, None
        if isinstance(message, Accepted) or asked is None or not isinstance(message, Refused):
            return []
        if not self._in_flight or self._in_flight[0] is not asked:
            return []
        self._in_flight.popleft()
        self._renumber()
        return [*self._tell_refused(asked, message.reason), *self._send_waiting(state, now_ms)]

    def _tell_refused(self, pending: _Pending, reason: str) -> list[Out]:
        told = ToRoles(Submitted(pending.token, None, reason), pending.role)
        return [told, Log("transaction.refused", {"body": type(pending.body).__name__, "reason": reason})]

    def on_unanswered(self) -> list[Out]:
        self._asking = None
        return []

    def _renumber(self) -> None:
        while self._in_flight:
            self._waiting.appendleft(self._in_flight.pop())

    def _send_waiting(self, state: State, now_ms: int) -> list[Out]:
        fresh: list[_Pending] = []
        nonce_next = self._in_flight[-1].nonce + 1 if self._in_flight else state.get_nonce(self._signer.public)
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX:
            pending = self._waiting.popleft()
            pending.tries = 0
            self._sign(pending, nonce_next, state, now_ms)
            self._in_flight.append(pending)
            fresh.append(pending)
            nonce_next += 1
        if not fresh:
            return []
        return [*self._gossip(tuple(fresh), now_ms), self._courier.wake("submit", now_ms + REPEAT_MS)]

    def _gossip(self, pendings: tuple[_Pending, ...], now_ms: int) -> list[Out]:
        """As few messages as hold them: what gossip costs, it costs by the message."""
        messages = [Transactions(items) for items in pack([pending.wire for pending in pendings], GOSSIP_LIST_MAX)]
        out: list[Out] = [self._courier.publish("txs", message, "", now_ms) for message in messages]
        own = (ToRoles(Received(self._node, message, "txs"), role) for message in messages for role in self._listeners)
        return [*out, *own]

    def _sign(self, pending: _Pending, nonce: int, state: State, now_ms: int) -> None:
        pending.nonce = nonce
        pending.valid_until_ms = now_ms + VALID_MS
        pending.wire = encode(sign(self._draft(pending.body, nonce, state, now_ms), self._signer))

    def _draft(self, body: Any, nonce: int, state: State, now_ms: int) -> Transaction:
        unsigned = Transaction(
            chain=self._chain,
            account=self._signer.public,
            nonce=nonce,
            kind=get_transaction_kind(type(body)),
            body=encode(body),
            fee=0,
            tip=0,
            valid_until_ms=now_ms + VALID_MS,
            signature=bytes(64),
        )
        base_fee = compute_base_fee(state.base_fee, max(0, now_ms - state.time_ms), state.params)
        return with_fee(unsigned, base_fee)
