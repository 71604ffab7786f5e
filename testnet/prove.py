"""Make ledger files out of what a node has stored: nothing is put into one that does not follow from genesis."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from protocol.candles import NoHistory
from protocol.codec import decode
from protocol.jobs import compute_claim_id
from protocol.ledger.apps import compute_pass_key
from protocol.ledger.block import Block, Certificate, ValidatorSet, get_validators
from protocol.ledger.light import Handover
from protocol.ledger.settlement import SettledLeaf
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, compute_transaction_id
from protocol.proofs.feed_proof import list_candle_entries
from protocol.proofs.ledger_file import (
    VERSION,
    LedgerFile,
    Section,
    StateProof,
    TransactionProof,
    build_state_proof,
)
from protocol.proofs.receipt_file import ReceiptFile
from protocol.queries import CandleQuery
from roles.chain import open_stored
from roles.config import UserError, read_genesis
from testnet.recompute import Recomputation, find_chains, recompute

ACCOUNT_TABLES = ("accounts", "nodes", "work")  # all that the ledger holds under an account's key


class NotSettled(UserError):
    """The ledger has nothing to prove about a receipt yet."""


@dataclass(frozen=True)
class StoredLedger:
    """A node's chain, recomputed. `validators` are the new ones, by the height whose block changed them."""

    path: Path
    result: Recomputation
    validators: dict[int, ValidatorSet]

    def read_blocks(self, heights: Iterable[int]) -> dict[int, tuple[Block, Certificate]]:
        wanted = set(heights)
        with open_stored(self.path) as (rows, _):
            return {
                row.height: (decode(Block, row.block), decode(Certificate, row.certificate))
                for row in rows
                if row.height in wanted
            }


def read_ledger(directory: Path) -> StoredLedger:
    """The longest chain in a directory, recomputed from genesis. UserError when there is none or it does not hold."""
    chains = find_chains(directory)
    if not chains:
        raise UserError(f"{directory} holds no ledger", "name a network's or a node's directory with --dir")
    name, path = max(chains.items(), key=lambda item: _read_height(item[1]))
    validators: dict[int, ValidatorSet] = {}

    def note_change(before: State, block: Block, after: State) -> None:
        if get_validators(after) != get_validators(before):
            validators[after.height] = ValidatorSet(get_validators(after))

    result = recompute(read_genesis(path.parent), {name: path}, note_change)
    if not result.holds:
        hint = f"`rolemesh testnet check {directory}` lists all that is wrong with it"
        raise UserError(f"the ledger in {directory} does not hold: {result.findings[0]}", hint)
    if not result.state.height:
        raise UserError(f"no block is stored in {directory}", "the first block comes with the first transaction")
    return StoredLedger(path, result, validators)


def prove_account(ledger: StoredLedger, account: bytes) -> LedgerFile:
    """What the newest state says of an account: balance, node record, work; or that it has none of them."""
    proof = build_state_proof(ledger.result.state, [(table, account) for table in ACCOUNT_TABLES])
    return _build(ledger, {ledger.result.state.height: (proof, None)})


def prove_receipt(ledger: StoredLedger, receipt: ReceiptFile) -> LedgerFile:
    """That the ledger has settled a receipt's claim, and that until now nobody has proven it wrong. NotSettled."""
    claim = receipt.receipt.claim
    leaf = ledger.result.leaves.get((claim.channel, claim.seq))
    if leaf is None:
        hint = "the worker settles within seconds on a test network; try again, or ask the worker"
        raise NotSettled(f"no block up to height {ledger.result.state.height} settles voucher {claim.seq}", hint)
    state = ledger.result.state
    proof = build_state_proof(state, [("wrong", compute_claim_id(claim)), ("channels", claim.channel)])
    if leaf.height == state.height:
        return _build(ledger, {leaf.height: (proof, leaf)})
    return _build(ledger, {leaf.height: (None, leaf), state.height: (proof, None)})


def prove_pass(ledger: StoredLedger, app: str, holder: bytes) -> LedgerFile:
    """What the newest state says of an account's pass to an app; or that it has none."""
    state = ledger.result.state
    return _build(ledger, {state.height: (build_state_proof(state, [("passes", compute_pass_key(app, holder))]), None)})


def prove_candles(ledger: StoredLedger, query: CandleQuery) -> LedgerFile:
    """The newest state's answer to a query of a feed's history. UserError when it has none."""
    state = ledger.result.state
    if query.feed not in state.feed_terms:
        raise UserError(f"the ledger has no feed {query.feed!r}", f"there are {', '.join(sorted(state.feed_terms))}")
    try:
        entries = list_candle_entries(state, query)
    except NoHistory as error:
        raise UserError(str(error), "ask for another --duration or --count") from error
    return _build(ledger, {state.height: (build_state_proof(state, entries), None)})


def _build(ledger: StoredLedger, wanted: dict[int, tuple[StateProof | None, SettledLeaf | None]]) -> LedgerFile:
    last = max(wanted)
    changes = {height: new for height, new in ledger.validators.items() if height < last}
    blocks = ledger.read_blocks([*wanted, *changes])
    handovers = tuple(Handover(blocks[height][0].header, blocks[height][1], new) for height, new in changes.items())
    sections = []
    for height, (state, leaf) in sorted(wanted.items()):
        block, certificate = blocks[height]
        settlement = () if leaf is None else (_prove_transaction(block.transactions, leaf.transaction_id),)
        sections.append(Section(block.header, certificate, () if state is None else (state,), settlement))
    restarts = tuple(item for item in ledger.result.restarts if item.terms.height < last)
    return LedgerFile(VERSION, handovers, restarts, tuple(sections))


def _prove_transaction(transactions: Sequence[bytes], transaction_id: bytes) -> TransactionProof:
    digests = tuple(sha256(data).digest() for data in transactions)
    chosen = tuple(data for data in transactions if compute_transaction_id(decode(Transaction, data)) == transaction_id)
    return TransactionProof(digests, chosen)


def _read_height(path: Path) -> int:
    with open_stored(path) as (rows, _):
        return max((row.height for row in rows), default=0)
