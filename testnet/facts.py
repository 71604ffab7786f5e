"""What a ledger's blocks say happened, summed up while they are recomputed one after the other from genesis.

    python -m testnet.facts DIRECTORY

recomputes the ledgers of a network or of one node and prints one JSON object. It asks no node for anything.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from protocol.cid import unpack_cid
from protocol.codec import encode
from protocol.keys import format_account
from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block
from protocol.ledger.escrow import SettleJob
from protocol.ledger.feeds import FeedSource
from protocol.ledger.lease_audits import AnswerAudit
from protocol.ledger.settlement import collect_leaves
from protocol.ledger.state import State, compute_state_root, compute_supply
from protocol.ledger.transactions import Transaction, ZeroReason, get_transaction_body, get_transaction_kind
from testnet.activity import Activity
from testnet.evidence import DisputeWords
from testnet.papers import find_places, read_papers
from testnet.recompute import OnBlock, Recomputation, recompute_directory
from testnet.reconcile import Reconciliation, reconcile
from testnet.statements import read_statements
from testnet.stats import describe_all
from testnet.vouchers import Vouchers


@dataclass
class Facts:
    """Sums over all blocks. Amounts in grains; `feeds` lists the values each feed has had, in order."""

    supply_genesis: int = 0
    supply: int = 0
    height: int = 0
    transactions: dict[str, int] = field(default_factory=dict)  # by kind
    leaves: dict[str, int] = field(default_factory=dict)  # `paid`, or why not
    paid_claims: list[str] = field(default_factory=list)
    fees: int = 0
    workers: int = 0
    verifiers: int = 0
    treasury: int = 0
    burn: int = 0
    proven_wrong: list[dict[str, Any]] = field(default_factory=list)
    feeds: dict[str, list[int]] = field(default_factory=dict)
    workflows: dict[str, dict[str, int]] = field(default_factory=dict)  # what became of their ticks
    evidence: dict[str, str] = field(default_factory=dict)  # claim id -> encoded Evidence, in hex
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id, in hex
    proposals: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id, in hex
    apps: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name
    audits: int = 0  # that were answered
    audits_paid: int = 0
    treasury_held: int = 0
    burned_in_all: int = 0

    def __post_init__(self) -> None:
        self._words = DisputeWords()

    def take(self, before: State, block: Block, after: State) -> None:
        """Count what one block changed."""
        self.supply_genesis = self.supply_genesis or before.supply
        self.height, self.supply = after.height, compute_supply(after)
        self.treasury_held, self.burned_in_all = after.treasury, after.burned
        transactions = decode_transactions(block)
        for transaction in transactions:
            _count(self.transactions, get_transaction_body(transaction.kind).__name__)
        for leaf in collect_leaves(transactions, after.height):
            _count(self.leaves, ZeroReason(leaf.reason).name.lower() if leaf.reason else "paid")
            self.fees += leaf.amount
            if leaf.claim_id:
                self.paid_claims.append(leaf.claim_id.hex())
        jobs = (item.content for item in transactions if item.kind == get_transaction_kind(SettleJob))
        self.fees += sum(job.claim.fee for job in jobs)
        contested = (before.runs[key] for key in after.pending.keys() - before.pending.keys() if key in before.runs)
        self.fees += sum(contest.receipt.claim.fee for run in contested for contest in run.contest)
        self._words.take(transactions)
        self._take_payouts(before, after)
        self._take_leases(before, after, transactions)
        self._take_proposals(before, after)
        self._take_proofs(before, after)
        self._words.forget(after)
        for feed, state in after.feeds.items():
            is_observed = after.feed_terms[feed].source != FeedSource.WORKFLOW
            if is_observed and state.observers and state != before.feeds.get(feed):
                self.feeds.setdefault(feed, []).append(state.value)
        for name, app in after.apps.items():
            counts = {"sold": app.sold, "income": app.income, "requests": app.requests, "earned": app.earned}
            self.apps[name] = counts
        for workflow in after.workflows.values():
            counts = {"fired": workflow.fired, "done": workflow.done, "missed": workflow.missed}
            self.workflows[workflow.name] = counts

    def _take_payouts(self, before: State, after: State) -> None:
        workers = {account for account, node in after.nodes.items() if "inference" in node.roles}
        for settlement in after.pending.keys() - before.pending.keys():
            entry = after.pending[settlement]
            for share in entry.shares:
                if share.account in workers:
                    self.workers += share.amount
                else:
                    self.verifiers += share.amount
            self.treasury += entry.treasury
            self.burn += entry.burn

    def _take_leases(self, before: State, after: State, transactions: Sequence[Transaction]) -> None:
        answered = [item.account for item in transactions if item.kind == get_transaction_kind(AnswerAudit)]
        self.audits += len(answered)
        for account in set(answered):
            known = before.work.get(account)
            self.audits_paid += after.work[account].earned - (known.earned if known is not None else 0)
        for key, lease in after.leases.items():
            held = self.leases.setdefault(key.hex(), {"holding": 0})
            holding = max(held["holding"], sum(replica.height > 0 for replica in lease.replicas))
            size_bytes, cid = lease.contents.size_bytes, str(unpack_cid(lease.cid))
            held.update(cid=cid, size_bytes=size_bytes, copies=lease.factor, holding=holding)

    def _take_proposals(self, before: State, after: State) -> None:
        for key, proposal in after.proposals.items():
            if proposal != before.proposals.get(key):
                told = {"title": proposal.title, "state": str(proposal.phase), "height": after.height}
                changes = {change.name: change.value for change in proposal.motion.parameter}
                self.proposals[key.hex()] = {
                    **told,
                    "changes": changes,
                    "yes": proposal.tally.yes,
                    "stake": proposal.stake,
                }

    def _take_proofs(self, before: State, after: State) -> None:
        for claim_id in sorted(after.wrong.keys() - before.wrong.keys()):
            wrong = after.wrong[claim_id]
            evidence = self._words.find_evidence(before, claim_id)
            if evidence is not None:
                self.evidence[claim_id.hex()] = encode(evidence).hex()
            self.proven_wrong.append(
                {
                    "claim_id": claim_id.hex(),
                    "account": format_account(wrong.worker),
                    "slashed": wrong.slashed,
                    "height": after.height,
                }
            )


def collect_facts(directory: Path, also: OnBlock | None = None) -> tuple[Recomputation, Facts, Reconciliation]:
    """Recompute the ledgers of a directory, sum up what holds, and hold against it what its nodes have kept.

    `also` sees every block that holds as well. Raises UserError when there are none.
    """
    facts, vouchers = Facts(), Vouchers()

    def on_block(before: State, block: Block, after: State) -> None:
        facts.take(before, block, after)
        vouchers.on_block(before, block, after)
        if also is not None:
            also(before, block, after)

    result = recompute_directory(directory, on_block)
    papers = {place.name: read_papers(place) for place in find_places(directory)}
    return result, facts, reconcile(vouchers, papers)


def main(arguments: list[str]) -> None:
    """Print what was found about the ledgers of a directory as JSON."""
    directory = Path(arguments[0])
    activity = Activity()
    result, facts, receipts = collect_facts(directory, activity.take)
    described = {
        "holds": result.holds,
        "findings": result.findings,
        "heights": result.heights,
        "blocks": result.blocks,
        "transactions_checked": result.transactions,
        "state_root": compute_state_root(result.state).hex(),
        **asdict(facts),
        "receipts": receipts.describe(),
        "activity": describe_all(activity, result.state, read_statements([directory], result.state.chain)),
    }
    json.dump(described, sys.stdout)


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


if __name__ == "__main__":
    main(sys.argv[1:])
