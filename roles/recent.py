"""Claims, attestations and transactions this node has seen lately, for peers that missed them."""

from collections import OrderedDict
from typing import Any, Generic, TypeVar

from protocol.jobs import Attestation, ClaimedWork, compute_claim_id
from protocol.ledger.transactions import Transaction
from protocol.messages import GOSSIP_LIST_MAX, Attestations, Claims, Transactions

V = TypeVar("V")

KEPT_MAX = 4_096
KEPT_BYTES_MAX = 8 * 1024 * 1024  # of transactions, and of what claims were asked
ATTESTATIONS_PER_CLAIM_MAX = 16
ANSWER_BYTES_MAX = 1024 * 1024


class Recent:
    """Bounded by count and bytes, oldest out first. Serves `sync` by id."""

    def __init__(self) -> None:
        self._claims: _Kept[ClaimedWork] = _Kept()
        self._attestations: OrderedDict[bytes, dict[bytes, Attestation]] = OrderedDict()
        self._transactions: _Kept[bytes] = _Kept()

    def keep(self, message: Any) -> None:
        """Remember what a checked message carries, if it is something peers may ask for."""
        match message:
            case Claims(items):
                for work in items:
                    size_bytes = sum(len(tensor.data) for tensor in work.request.inputs)
                    self._claims.put(compute_claim_id(work.claim), work, size_bytes)
            case Attestations(items):
                for attestation in items:
                    held = self._attestations.setdefault(attestation.claim_id, {})
                    if len(held) < ATTESTATIONS_PER_CLAIM_MAX:
                        held[attestation.verifier] = attestation
                while len(self._attestations) > KEPT_MAX:
                    self._attestations.popitem(last=False)

    def keep_transaction(self, transaction: Transaction) -> None:
        self._transactions.put(transaction.id, transaction.wire, len(transaction.wire))

    def knows_claims(self, claim_ids: tuple[bytes, ...]) -> bool:
        return all(key in self._claims for key in claim_ids)

    def get_claims(self, claim_ids: tuple[bytes, ...]) -> Claims:
        return Claims(self._claims.list_known(claim_ids)[:GOSSIP_LIST_MAX])

    def get_attestations(self, claim_ids: tuple[bytes, ...]) -> Attestations:
        held = [item for key in claim_ids for item in self._attestations.get(key, {}).values()]
        return Attestations(tuple(held[:GOSSIP_LIST_MAX]))

    def get_transactions(self, transaction_ids: tuple[bytes, ...]) -> Transactions:
        size_bytes = 0
        fitting: list[bytes] = []
        for data in self._transactions.list_known(transaction_ids):
            size_bytes += len(data)
            if size_bytes > ANSWER_BYTES_MAX:
                break
            fitting.append(data)
        return Transactions(tuple(fitting))


class _Kept(Generic[V]):
    """By id. `size_bytes` is what a value is said to take: one that comes again keeps its place."""

    def __init__(self) -> None:
        self._items: OrderedDict[bytes, tuple[V, int]] = OrderedDict()  # with their bytes
        self._size_bytes = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._items

    def put(self, key: bytes, value: V, size_bytes: int) -> None:
        _, before_bytes = self._items.get(key, (None, 0))
        self._items[key] = value, size_bytes
        self._size_bytes += size_bytes - before_bytes
        while len(self._items) > KEPT_MAX or self._size_bytes > KEPT_BYTES_MAX:
            _, (_, gone_bytes) = self._items.popitem(last=False)
            self._size_bytes -= gone_bytes

    def list_known(self, keys: tuple[bytes, ...]) -> tuple[V, ...]:
        return tuple(self._items[key][0] for key in keys if key in self._items)
