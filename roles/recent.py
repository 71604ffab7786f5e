"""Claims, attestations and transactions this node has seen lately, for peers that missed them."""

from collections import OrderedDict
from typing import Any, TypeVar

from protocol.jobs import Attestation, ClaimedWork, compute_claim_id
from protocol.ledger.transactions import Transaction
from protocol.messages import GOSSIP_LIST_MAX, Attestations, Claims, Transactions

V = TypeVar("V")

KEPT_MAX = 4_096
ATTESTATIONS_PER_CLAIM_MAX = 16
ANSWER_BYTES_MAX = 1024 * 1024


class Recent:
    """Bounded by count, oldest out first. Serves `sync` by id."""

    def __init__(self) -> None:
        self._claims: OrderedDict[bytes, ClaimedWork] = OrderedDict()
        self._attestations: OrderedDict[bytes, dict[bytes, Attestation]] = OrderedDict()
        self._transactions: OrderedDict[bytes, bytes] = OrderedDict()

    def keep(self, message: Any) -> None:
        """Remember what a checked message carries, if it is something peers may ask for."""
        match message:
            case Claims(items):
                for work in items:
                    _put(self._claims, compute_claim_id(work.claim), work)
            case Attestations(items):
                for attestation in items:
                    held = self._attestations.setdefault(attestation.claim_id, {})
                    if len(held) < ATTESTATIONS_PER_CLAIM_MAX:
                        held[attestation.verifier] = attestation
                _trim(self._attestations)

    def keep_transaction(self, transaction: Transaction) -> None:
        _put(self._transactions, transaction.id, transaction.wire)

    def knows_claims(self, claim_ids: tuple[bytes, ...]) -> bool:
        return all(key in self._claims for key in claim_ids)

    def get_claims(self, claim_ids: tuple[bytes, ...]) -> Claims:
        return Claims(tuple(self._claims[key] for key in claim_ids if key in self._claims)[:GOSSIP_LIST_MAX])

    def get_attestations(self, claim_ids: tuple[bytes, ...]) -> Attestations:
        held = [item for key in claim_ids for item in self._attestations.get(key, {}).values()]
        return Attestations(tuple(held[:GOSSIP_LIST_MAX]))

    def get_transactions(self, transaction_ids: tuple[bytes, ...]) -> Transactions:
        held = [self._transactions[key] for key in transaction_ids if key in self._transactions]
        size_bytes = 0
        fitting: list[bytes] = []
        for data in held:
            size_bytes += len(data)
            if size_bytes > ANSWER_BYTES_MAX:
                break
            fitting.append(data)
        return Transactions(tuple(fitting))


def _put(kept: OrderedDict[bytes, V], key: bytes, value: V) -> None:
    kept[key] = value
    _trim(kept)


def _trim(kept: OrderedDict[bytes, V]) -> None:
    while len(kept) > KEPT_MAX:
        kept.popitem(last=False)
