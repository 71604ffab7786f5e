"""A ledger with storage nodes that keep what is leased, or lack some of it: who answers what is for a test to say."""

from collections.abc import Collection, Mapping

from protocol.audit import AuditTree, Contents, answer_audit, measure_contents
from protocol.cid import Cid
from protocol.errors import MissingBlob
from protocol.keys import PrivateKey
from protocol.ledger.lease_audits import AnswerAudit, get_drawn
from protocol.ledger.lease_records import Lease, Replica
from protocol.ledger.leases import (
    KeepBlob,
    LeaseBlob,
    OfferSpace,
    compute_lease_id,
    compute_term_cost,
    find_replica,
)
from protocol.ledger.params import Params
from protocol.unixfs import CHUNK_BYTES, Block, FileBuilder, make_leaf
from tests.support.ledgers import Ledger

PRICE = 3_600_000  # per MiB and hour
ROOM = 2**30


class Blob:
    """A file as its blocks, with its audit tree."""

    def __init__(self, data: bytes, chunk: int = CHUNK_BYTES) -> None:
        builder = FileBuilder()
        self.blocks: dict[bytes, bytes] = {}
        for at in range(0, max(len(data), 1), chunk):
            leaf = make_leaf(data[at : at + chunk])
            self._keep(leaf, *builder.add(leaf))
        root, rest = builder.finish()
        self._keep(*rest)
        self.cid = root.cid
        self.tree: AuditTree = measure_contents(self.cid, self.read, 2**40)
        self.contents: Contents = self.tree.finish()

    def _keep(self, *blocks: Block) -> None:
        self.blocks |= {block.cid.digest: block.data for block in blocks}

    def read(self, cid: Cid) -> bytes:
        if cid.digest not in self.blocks:
            raise MissingBlob(cid.digest)
        return self.blocks[cid.digest]


class Leases:
    """A ledger with storage nodes, all of which let space, and a client that leases. Time passes by `block` alone."""

    def __init__(self, stores: int = 4, params: Params | None = None, roles: Mapping[str, int] | None = None) -> None:
        counts = {"validator": 1, "storage": stores, "client": 1} if roles is None else roles
        self.ledger = Ledger(counts, params, check_signatures=False)
        self.params = self.ledger.state.params
        self.payer = self.ledger.account("client-0")
        self.names = {self.ledger.account(f"storage-{number}").public: f"storage-{number}" for number in range(stores)}
        self.ledger.block(*(self.ledger.sign(self.account(key), OfferSpace(ROOM, PRICE)) for key in self.names))

    def account(self, key: bytes) -> PrivateKey:
        return self.ledger.account(self.names[key])

    def terms(self, blob: Blob, factor: int = 2, periods: int = 3, renews: int = 0, terms: int = 1) -> LeaseBlob:
        """A lease with money for so many terms."""
        cost = compute_term_cost(blob.contents.size_bytes, PRICE, factor, periods, self.params) * terms
        return LeaseBlob(blob.cid.pack(), blob.contents, PRICE, factor, periods, renews, cost)

    def open(self, blob: Blob, factor: int = 2, periods: int = 3, renews: int = 0, terms: int = 1) -> bytes:
        """Open a lease; its id."""
        self.ledger.do(self.payer, self.terms(blob, factor, periods, renews, terms))
        return compute_lease_id(self.payer.public, blob.cid.pack())

    def find(self, key: bytes) -> Lease:
        return self.ledger.state.leases[key]

    def replica(self, key: bytes, account: bytes) -> Replica:
        found = find_replica(self.find(key), account)
        assert found is not None
        return found

    def list_offered(self, key: bytes) -> list[bytes]:
        return [replica.account for replica in self.find(key).replicas if not replica.height]

    def list_holding(self, key: bytes) -> list[bytes]:
        return [replica.account for replica in self.find(key).replicas if replica.height]

    def accept(self, key: bytes, *accounts: bytes) -> None:
        """Those nodes, or all that are drawn, accept; then a block passes, so that the next audit asks them."""
        chosen = accounts or self.list_offered(key)
        assert self.ledger.block(*(self.ledger.sign(self.account(item), KeepBlob(key, 1)) for item in chosen)) == []
        self.ledger.block()

    def ask(self, key: bytes) -> None:
        """Have the next audit begin."""
        due = [item.time_ms for item in self.ledger.state.due.values() if item.id == key and item.kind == 60]
        self.ledger.block(after_ms=min(due) - self.ledger.state.time_ms)

    def answer(self, key: bytes, account: bytes, blob: Blob) -> AnswerAudit:
        drawn = get_drawn(key, self.find(key), account)
        return AnswerAudit(key, answer_audit(blob.tree, drawn, blob.read))

    def audit(self, key: bytes, blob: Blob, silent: Collection[bytes] = ()) -> None:
        """One audit from its beginning to its end: all who are asked answer, but for the silent."""
        self.ask(key)
        asked = [replica.account for replica in self.find(key).replicas if replica.is_asked]
        for account in asked:
            if account not in silent:
                self.ledger.do(self.account(account), self.answer(key, account, blob))
        self.end()

    def end(self) -> None:
        """Let the time to answer pass, and the grace after it."""
        self.ledger.block(after_ms=self.params.audit_answer_ms)
        self.ledger.block(after_ms=self.params.grace_ms)

    def bond(self, account: bytes) -> int:
        return self.ledger.state.nodes[account].bond

    def balance(self, account: bytes) -> int:
        return self.ledger.state.get_balance(account)
