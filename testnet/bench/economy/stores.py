"""Storage nodes: they let room, take the leases they are drawn for and answer audits. And those that keep less."""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from protocol.audit import AuditTree, Contents, answer_audit
from protocol.cid import RAW, Cid, compute_cid
from protocol.ledger.lease_audits import AnswerAudit, get_drawn
from protocol.ledger.lease_records import Replica
from protocol.ledger.leases import HOUR_MS, MIB, KeepBlob, OfferSpace, find_replica
from protocol.ledger.state import State
from protocol.unixfs import CHUNK_BYTES, Block
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.participant import Participant
from testnet.found import LEASE_PRICE_GRAINS

BLOB_BYTES = 4 * MIB
ROOM_BYTES = 64 * MIB
PARTS = 10  # one of so many is what a node lacks that keeps most of a blob


class Keeping(StrEnum):
    """What a storage node keeps of a blob it has accepted."""

    ALL = "all"
    MOST = "most"  # it answers an audit that happens not to ask for the rest
    NOTHING = "nothing"


_SHARES = {Keeping.ALL: PARTS, Keeping.MOST: PARTS - 1, Keeping.NOTHING: 0}


@dataclass(kw_only=True)
class Store(Participant):
    """`kept_ms` is up to when it has paid for what it keeps."""

    keeping: Keeping = Keeping.ALL
    kept_ms: int = 0

    def act(self, chain: Chain) -> None:
        if self.is_gone:
            return
        state = chain.state
        parts = {key: find_replica(lease, self.account) for key, lease in state.leases.items()}
        held = {key: part for key, part in parts.items() if part is not None}
        self._pay_for(state, sum(state.leases[key].contents.size_bytes for key, part in held.items() if part.height))
        if self.is_leaving:
            self._hand_back(chain, held)
            return
        offer = state.offers.get(self.account)
        node = state.nodes.get(self.account)
        has_bond = node is not None and node.bond >= state.params.get_bond_min(self.role)
        if has_bond and self.is_serving(state) and (offer is None or offer.is_silent):
            chain.submit(self.account, OfferSpace(ROOM_BYTES, LEASE_PRICE_GRAINS))
        for key, part in held.items():
            if not part.height:
                chain.submit(self.account, KeepBlob(key, 1))
            elif part.is_asked:
                self._answer(chain, key)

    def _pay_for(self, state: State, size_bytes: int) -> None:
        """What keeping has cost since it was last asked."""
        time_ms = state.time_ms - (self.kept_ms or state.time_ms)
        self.kept_ms = state.time_ms
        self.cost += size_bytes * self.costs.stored * time_ms * _SHARES[self.keeping] // (PARTS * MIB * HOUR_MS)

    def _answer(self, chain: Chain, key: bytes) -> None:
        """Show the pieces that are drawn, if all of them are there."""
        lease = chain.state.leases[key]
        drawn = get_drawn(key, lease, self.account)
        kept = lease.contents.pieces * _SHARES[self.keeping] // PARTS
        if all(piece < kept for piece in drawn):
            chain.submit(self.account, AnswerAudit(key, answer_audit(make_blob(), drawn, read_blob)))

    def _hand_back(self, chain: Chain, held: dict[bytes, Replica]) -> None:
        """Let no room any more, give back what no audit waits for, and go once nothing is left."""
        offer = chain.state.offers.get(self.account)
        if offer is not None and offer.room_bytes:
            chain.submit(self.account, OfferSpace(0, LEASE_PRICE_GRAINS))
        for key, part in held.items():
            if part.is_asked:
                self._answer(chain, key)
            else:
                chain.submit(self.account, KeepBlob(key, 0))
        if not held:
            self.take_stake_back(chain)


@lru_cache(maxsize=1)
def make_blob() -> AuditTree:
    """The tree over the one blob that is kept here: zeros."""
    tree = AuditTree()
    for _ in range(BLOB_BYTES // CHUNK_BYTES):
        tree.add(Block(find_cid(), bytes(CHUNK_BYTES)))
    tree.finish()
    return tree


def get_contents() -> Contents:
    return make_blob().finish()


@lru_cache(maxsize=1)
def find_cid() -> Cid:
    return compute_cid(RAW, bytes(CHUNK_BYTES))


def read_blob(cid: Cid) -> bytes:
    """The block of this name: they are all the same."""
    return bytes(CHUNK_BYTES)
