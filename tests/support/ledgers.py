"""A ledger that moves on block by block, with the keys of everyone on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from protocol.jobs import Attestation, Mode, Receipt
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, build_block
from protocol.ledger.block import Block, Certificate
from protocol.ledger.genesis import build_state
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.params import Params
from protocol.ledger.randomness import find_reveal
from protocol.ledger.rows import list_state_rows, update_tree
from protocol.ledger.state import State, compute_supply
from protocol.ledger.transactions import (
    ChannelOpening,
    ChannelRun,
    Leaf,
    OpenChannels,
    SettleIndividual,
    Transaction,
    Work,
    ZeroReason,
    compute_channel_id,
    compute_transaction_id,
)
from protocol.ledger.tree import Tree
from testnet.genesis import DEFAULT_ROLES, build_genesis
from tests.support.certificates import certify
from tests.support.flows import verify_flows
from tests.support.jobs import attest, get_keys, make_receipt, make_request, pay, sign_transaction

GENESIS_MS = 1_700_000_000_000


class Ledger:
    """Blocks are built, then applied to the state before them, which must give the same."""

    def __init__(
        self,
        roles: Mapping[str, int] = DEFAULT_ROLES,
        params: Params | None = None,
        check_signatures: bool = True,
        models: Sequence[ModelRecord] | None = None,
    ) -> None:
        foundation = build_genesis(7, roles, models, now_ms=GENESIS_MS)
        if params is not None:
            foundation = replace(foundation, genesis=replace(foundation.genesis, params=params))
        self.foundation = foundation
        self.state: State = build_state(foundation.genesis)
        self.blocks: list[tuple[Block, Certificate, State]] = []
        self._check_signatures = check_signatures
        self._requests = 0
        self.builder = "validator-0"  # of the next blocks

    def node(self, name: str) -> PrivateKey:
        return get_keys(self.foundation, name)[0]

    def account(self, name: str) -> PrivateKey:
        return get_keys(self.foundation, name)[1]

    def spare(self, index: int = 0) -> PrivateKey:
        return PrivateKey.from_seed(self.foundation.spare[index])

    def sign(self, account: PrivateKey, body: object, nonce: int | None = None) -> Transaction:
        return sign_transaction(self.state, account, body, nonce)

    def block(self, *transactions: Transaction, after_ms: int = 100) -> list[Exception]:
        """Move on by one block of these; the errors of those that were dropped."""
        before = self.state
        builder = self.account(self.builder).public
        vote = PrivateKey.from_seed(self.foundation.nodes[self.builder].vote or b"")
        reveal = find_reveal(before, builder, vote)
        block, after, dropped = build_block(
            before, transactions, before.time_ms + after_ms, builder, self._check_signatures, reveal
        )
        assert apply_block(before, block, self._check_signatures) == after
        assert compute_supply(after) == before.supply
        verify_flows(before, after)
        self.blocks.append((block, certify(block.header, vote), after))
        self.state = after
        return [error for _, error in dropped]

    def rebuild(self) -> Tree:
        """The tree of the state's tables as they are now: for a test that has put something into them."""
        return update_tree(None, list_state_rows(self.state))

    def do(self, account: PrivateKey, body: object, after_ms: int = 100) -> None:
        """One block with one transaction that must be taken."""
        assert self.block(self.sign(account, body), after_ms=after_ms) == []

    def refuse(self, account: PrivateKey, body: object) -> Exception:
        """The error with which one transaction is refused, the state staying as it is."""
        _, after, dropped = build_block(
            self.state,
            [self.sign(account, body)],
            self.state.time_ms + 1,
            self.account("validator-0").public,
            self._check_signatures,
        )
        assert len(dropped) == 1
        assert after.accounts == self.state.accounts
        assert not [
            change
            for change in after.changes
            if change[0] not in ("batches", "checks", "due", "epochs", "pending", "work")
        ]
        return dropped[0][1]

    def open_channel(
        self, payee: str = "inference-0", deposit: int = 100_000_000, mode: str = Mode.INDIVIDUAL
    ) -> bytes:
        """A channel from client-0; its id."""
        payer = self.account("client-0")
        opening = ChannelOpening(self.account(payee).public, deposit, mode)
        transaction = self.sign(payer, OpenChannels((opening,)))
        assert self.block(transaction) == []
        return compute_channel_id(compute_transaction_id(transaction), 0)

    def work(
        self, channel: bytes, seq: int = 1, worker: str = "inference-0", verifiers: int = 2, **voucher: object
    ) -> tuple[Receipt, tuple[Attestation, ...], Work]:
        """One job that was done and attested by everyone drawn."""
        self._requests += 1
        request = make_request(self.state, self.foundation, self._requests, verifiers=verifiers)
        item = pay(request, self.foundation, channel, seq, **voucher)
        receipt = make_receipt(item, self.node(worker))
        attestations = attest(self.state, self.foundation, receipt, receipt.output_digest)
        work = Work(item.voucher, receipt.claim, receipt.salt, receipt.output_digest, attestations)
        return receipt, attestations, work

    def settle(self, channel: bytes, *leaves: Work | ZeroReason, first: int | None = None) -> SettleIndividual:
        if first is None:
            first = self.state.channels[channel].settled_seq + 1
        made = tuple(Leaf(int(leaf), ()) if isinstance(leaf, ZeroReason) else Leaf(0, (leaf,)) for leaf in leaves)
        return SettleIndividual((ChannelRun(channel, first, made),))
