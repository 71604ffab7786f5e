"""The mempool: verified transactions that wait for a block, bounded, and the same for everyone who offers the same.

One transaction per account and nonce; another one takes its place only for a higher fee. An account's transactions go
into blocks in order of nonce, accounts by what they leave the builder; a transaction behind a gap waits for it. What a
transaction is worth is the lowest price of its account up to it, since nothing overtakes it: when the pool is full, the
last transaction of the account that is worth least leaves, those behind a gap before all others.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.errors import InvalidTransaction, NonceMismatch
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.transactions import Transaction
from protocol.types import BP

Worth = tuple[int, int, int]  # 0 behind a gap, price, and of equals the last to come leaves first
STALE_MAX = 64  # entries of a heap that no longer hold, beside as many as do


class NonceTooFar(InvalidTransaction):
    """So many transactions of one account are not kept ahead of the ledger."""

    def __init__(self, got: int, limit: int) -> None:
        super().__init__(f"nonce is {got}, the pool keeps those below {limit} of this account")
        self.got = got
        self.limit = limit


class ReplacementTooCheap(InvalidTransaction):
    """Another transaction with this nonce waits already, and this one does not pay enough more to take its place."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"offers {have} grains a unit, needs {need} to replace the one that waits")
        self.have = have
        self.need = need


class PoolFull(InvalidTransaction):
    """All that waits is worth more. `need` is the least price, in grains a unit, above what leaves first."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"the pool is full: offers {have} grains a unit, needs {need}")
        self.have = have
        self.need = need


class AccountFull(InvalidTransaction):
    """The account has as many bytes in the pool as one account may."""

    def __init__(self, size_bytes: int, limit: int) -> None:
        super().__init__(f"{size_bytes} bytes of this account would wait, at most {limit} may")
        self.size_bytes = size_bytes
        self.limit = limit


@fast_dataclass(frozen=True)
class Limits:
    """Bounds of a pool. `replace_bp` is how much more a replacement pays."""

    count_max: int = 8_192
    bytes_max: int = 16 * 1024 * 1024
    per_account_max: int = 64  # nonces from the account's next one on
    account_bytes_max: int = 1024 * 1024
    replace_bp: int = 1_000


@fast_dataclass(frozen=True)
class Pooled:
    """A transaction as the pool sees it. `id` is the sha256 of `data`; `price` and `tip` are grains a unit of room.

    `price` is the most it pays, `tip` the most it leaves the builder on top of the base fee. `transaction` is what
    `data` decodes to, for whoever takes it out again.
    """

    id: bytes
    account: bytes
    nonce: int
    price: int
    tip: int
    valid_until_ms: int
    data: bytes
    transaction: Transaction | None = None


class Mempool:
    """Decides without a ledger at hand: whoever adds a transaction has verified it and knows its account's nonce."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.size_bytes = 0
        self._held: dict[bytes, _Held] = {}
        self._lanes: dict[bytes, _Lane] = {}
        self._arrivals = 0
        self._versions = 0
        # A heap, as of a lane's version; stale ones are passed over.
        self._by_worth: list[tuple[Worth, int, bytes]] = []
        self._changed: dict[bytes, None] = {}  # accounts to be weighed anew before anyone asks what they are worth
        self._by_expiry: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: bytes) -> bool:
        return key in self._held

    def get(self, key: bytes) -> Pooled | None:
        held = self._held.get(key)
        return None if held is None else held.item

    def find(self, account: bytes, nonce: int) -> Pooled | None:
        """What waits under a number of an account."""
        lane = self._lanes.get(account)
        held = None if lane is None else lane.items.get(nonce)
        return None if held is None else held.item

    def list_missing(self, keys: Iterable[bytes]) -> tuple[bytes, ...]:
        """Which of these are not here and must be fetched."""
        return tuple(key for key in keys if key not in self._held)

    def add(self, item: Pooled, nonce_next: int) -> tuple[Pooled, ...]:
        """Take in a transaction whose account's next nonce is `nonce_next`; those that had to leave for it.

        One that is here already changes nothing. InvalidTransaction says why it is refused; then nothing has changed.
        """
        if item.id in self._held:
            return ()
        self._move(item.account, nonce_next)
        if item.nonce < nonce_next:
            raise NonceMismatch(nonce_next, item.nonce)
        if item.nonce >= nonce_next + self.limits.per_account_max:
            raise NonceTooFar(item.nonce, nonce_next + self.limits.per_account_max)
        left: list[_Left] = []
        lane = self._lanes.get(item.account)
        if lane is not None and item.nonce in lane.items:
            self._verify_replacement(lane.items[item.nonce].item, item)
            left.append(self._let_go(lane.items[item.nonce].item))
        self._arrivals += 1
        self._put(_Held(item, self._arrivals), nonce_next)
        try:
            self._shrink(item, left)
        except InvalidTransaction:
            self._take(item.id)
            for held, its_next in reversed(left):
                self._put(held, its_next)
            raise
        return tuple(held.item for held, _ in left)

    def advance(self, nonces: Mapping[bytes, int], time_ms: int) -> tuple[Pooled, ...]:
        """The ledger has come to `time_ms`, these accounts to these next nonces: the settled and the expired leave."""
        left = [item for account, nonce in nonces.items() for item in self._move(account, nonce)]
        while self._by_expiry and self._by_expiry[0][0] < time_ms:
            key = heapq.heappop(self._by_expiry)[1]
            if key in self._held:
                left.append(self._take(key).item)
        return tuple(left)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget these: the ledger does not want them."""
        for key in keys:
            if key in self._held:
                self._take(key)

    def list_ready(self, base_fee: int) -> Iterator[Pooled]:
        """All that can follow one another onto the ledger, best first, each account's in order of nonce.

        Best is what leaves the builder most at this base fee, in grains a unit; of equals the first to come. The pool
        must not change meanwhile.
        """
        heads = [_rank(lane.items[lane.nonce_next], base_fee) for lane in self._lanes.values() if lane.is_ready]
        heapq.heapify(heads)
        while heads:
            item = self._held[heads[0][2]].item
            yield item
            after = self._lanes[item.account].items.get(item.nonce + 1)
            if after is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, _rank(after, base_fee))

    def _verify_replacement(self, old: Pooled, item: Pooled) -> None:
        factor = BP + self.limits.replace_bp
        for offered, held in ((item.price, old.price), (item.tip, old.tip)):
            if offered * BP < held * factor:
                raise ReplacementTooCheap(offered, -(-held * factor // BP))
        if item.price <= old.price:  # a part of next to nothing is nothing
            raise ReplacementTooCheap(item.price, old.price + 1)

    def _shrink(self, item: Pooled, left: list["_Left"]) -> None:
        """Have transactions leave, into `left`, until all bounds hold again. Raises when it would be `item`'s turn."""
        lane, limits = self._lanes[item.account], self.limits
        while lane.size_bytes > limits.account_bytes_max:
            last = lane.items[max(lane.items)].item
            if last.id == item.id:
                raise AccountFull(lane.size_bytes, limits.account_bytes_max)
            left.append(self._let_go(last))
        while len(self._held) > limits.count_max or self.size_bytes > limits.bytes_max:
            worth, last = self._find_least()
            if last.id == item.id:
                raise PoolFull(item.price, worth[1] + 1)
            left.append(self._let_go(last))

    def _let_go(self, item: Pooled) -> "_Left":
        """Take it out for another, with all it needs to come back."""
        nonce_next = self._lanes[item.account].nonce_next
        return _Left(self._take(item.id), nonce_next)

    def _find_least(self) -> "tuple[Worth, Pooled]":
        """The last transaction of the account that is worth least. The pool must not be empty."""
        self._weigh_changed()
        while True:
            worth, version, account = self._by_worth[0]
            lane = self._lanes.get(account)
            if lane is not None and lane.version == version:
                return worth, lane.items[max(lane.items)].item
            heapq.heappop(self._by_worth)

    def _move(self, account: bytes, nonce_next: int) -> list[Pooled]:
        """An account's next nonce is this: what lies behind it leaves."""
        lane = self._lanes.get(account)
        if lane is None or nonce_next <= lane.nonce_next:
            return []
        lane.nonce_next = nonce_next
        settled = [self._take(lane.items[nonce].item.id).item for nonce in sorted(lane.items) if nonce < nonce_next]
        if not settled:
            self._note(account, lane)
        return settled

    def _put(self, held: "_Held", nonce_next: int) -> None:
        item = held.item
        lane = self._lanes.setdefault(item.account, _Lane(nonce_next))
        lane.items[item.nonce] = self._held[item.id] = held
        lane.size_bytes += len(item.data)
        self.size_bytes += len(item.data)
        self._note(item.account, lane)
        heapq.heappush(self._by_expiry, (item.valid_until_ms, item.id))
        if len(self._by_expiry) > 2 * len(self._held) + STALE_MAX:
            self._by_expiry = [(held.item.valid_until_ms, key) for key, held in self._held.items()]
            heapq.heapify(self._by_expiry)

    def _take(self, key: bytes) -> "_Held":
        held = self._held.pop(key)
        item, lane = held.item, self._lanes[held.item.account]
        del lane.items[item.nonce]
        lane.size_bytes -= len(item.data)
        self.size_bytes -= len(item.data)
        self._note(item.account, lane)
        return held

    def _note(self, account: bytes, lane: "_Lane") -> None:
        """An account's lane has changed: so may what it is worth, which is asked for only when there is no room."""
        if not lane.items:
            del self._lanes[account]
        self._changed[account] = None
        if len(self._changed) > 2 * len(self._lanes) + STALE_MAX:
            self._changed = {key: None for key in self._changed if key in self._lanes}

    def _weigh_changed(self) -> None:
        for account in self._changed:
            lane = self._lanes.get(account)
            if lane is not None:
                self._versions += 1
                lane.version = self._versions
                heapq.heappush(self._by_worth, (lane.compute_worth(), lane.version, account))
        self._changed.clear()
        if len(self._by_worth) > 2 * len(self._lanes) + STALE_MAX:
            lanes = self._lanes.items()
            self._by_worth = [(lane.compute_worth(), lane.version, account) for account, lane in lanes]
            heapq.heapify(self._by_worth)


@fast_dataclass(frozen=True)
class _Held:
    item: Pooled
    arrival: int


class _Left(NamedTuple):
    """What has left for another, and its account's next nonce."""

    held: _Held
    nonce_next: int


@dataclass
class _Lane:
    """One account's transactions, by nonce. Never empty while the pool has it."""

    nonce_next: int
    items: dict[int, _Held] = field(default_factory=dict)
    size_bytes: int = 0
    version: int = 0

    @property
    def is_ready(self) -> bool:
        return self.nonce_next in self.items

    def compute_worth(self) -> Worth:
        """What the last transaction is worth: nothing behind a gap, else as much as the cheapest up to it."""
        last = max(self.items)
        has_gap = last - self.nonce_next >= len(self.items)
        price = min(held.item.price for held in self.items.values())
        return (0 if has_gap else 1, price, -self.items[last].arrival)


def _rank(held: _Held, base_fee: int) -> tuple[int, int, bytes]:
    item = held.item
    return -min(item.tip, item.price - base_fee), held.arrival, item.id
