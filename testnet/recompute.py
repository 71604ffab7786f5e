"""Recompute ledgers from genesis and blocks, and say where what nodes have stored differs.

Nothing stored is believed: every signature and certificate is checked, every state root, the supply of every block, and
at the end the state each node has kept. Chains of several nodes are gone through side by side.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from protocol.codec import decode
from protocol.errors import ProtocolError
from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block, Certificate
from protocol.ledger.genesis import Genesis, build_state, compute_chain_id
from protocol.ledger.restart import apply_decided
from protocol.ledger.restart_terms import Restart, decode_restarts
from protocol.ledger.settlement import SettledLeaf, collect_leaves
from protocol.ledger.state import State, compute_state_root, compute_supply
from roles.chain import StoredBlock, StoredState, open_stored
from roles.config import GENESIS_NAME, UserError, read_genesis
from testnet.network_file import FILE_NAME, NetworkFileError, read_network_file

DATABASE_NAME = "node.db"
NODES_NAME = "nodes"
FINDINGS_MAX = 100

OnBlock = Callable[[State, Block, State], None]  # before, block, after


@dataclass
class Recomputation:
    """What came out. `findings` are for people, each naming node and height; none means that everything holds.

    `state` is the last one all blocks lead to, `leaves` every settled voucher by (channel, seq), `heights` how far each
    node's chain holds, `restarts` those it has been through, `first_bad` the lowest height at which something differs.
    """

    state: State
    findings: list[str] = field(default_factory=list)
    leaves: dict[tuple[bytes, int], SettledLeaf] = field(default_factory=dict)
    heights: dict[str, int] = field(default_factory=dict)
    restarts: list[Restart] = field(default_factory=list)
    blocks: int = 0
    transactions: int = 0
    first_bad: int | None = None

    @property
    def holds(self) -> bool:
        return not self.findings

    def find(self, text: str, height: int | None = None) -> None:
        """Add a finding; beyond FINDINGS_MAX they are no longer listed one by one."""
        if height is not None:
            self.first_bad = height if self.first_bad is None else min(height, self.first_bad)
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)


@dataclass
class _Stored:
    """One node's chain while it is read: `next` is the row to look at, `height` how far it holds."""

    name: str
    rows: Iterator[StoredBlock]
    state: StoredState | None
    next: StoredBlock | None = None
    height: int = 0


def find_chains(directory: Path) -> dict[str, Path]:
    """The databases of a network's directory, or of one node's, by name of node. Empty when there are none."""
    if (directory / DATABASE_NAME).is_file():
        return {directory.name: directory / DATABASE_NAME}
    found = sorted((directory / NODES_NAME).glob(f"*/{DATABASE_NAME}"))
    return {path.parent.name: path for path in found}


def recompute_directory(directory: Path, on_block: OnBlock | None = None) -> Recomputation:
    """Recompute every chain of a network's or node's directory, from the genesis that lies beside the chains.

    A network's file must tell of the same genesis, and every node it names must have a chain. Raises UserError when
    there is nothing to recompute.
    """
    chains = find_chains(directory)
    if not chains:
        raise UserError(f"{directory} holds no ledger", f"name a directory with {DATABASE_NAME}, or with {NODES_NAME}/")
    geneses: dict[str, Genesis] = {}
    unread: dict[str, UserError] = {}
    for name, path in chains.items():
        try:
            geneses[name] = read_genesis(path.parent)
        except UserError as error:
            unread[name] = error
    if not geneses:
        raise next(iter(unread.values()))
    genesis = next(iter(geneses.values()))
    result = recompute(genesis, chains, on_block)
    for name, reason in unread.items():
        result.find(f"{name}: {reason}")
    if (directory / FILE_NAME).is_file():
        _compare_network_file(result, directory / FILE_NAME, genesis, chains)
    for name, other in geneses.items():
        if other != genesis:
            ours, theirs = compute_chain_id(genesis).hex(), compute_chain_id(other).hex()
            result.find(f"{name}: its {GENESIS_NAME} founds chain {theirs}, that of {next(iter(geneses))} {ours}")
    return result


def _compare_network_file(result: Recomputation, path: Path, genesis: Genesis, chains: Mapping[str, Path]) -> None:
    """What a network's file says must fit its nodes: whoever joins believes its genesis."""
    try:
        network = read_network_file(path)
        told = {network.chain, compute_chain_id(Genesis.from_json(json.dumps(network.genesis))).hex()}
    except (NetworkFileError, ProtocolError, ValueError, KeyError, TypeError) as error:
        result.find(f"{path.name}: its genesis cannot be read: {error}")
        return
    chain = compute_chain_id(genesis).hex()
    if told != {chain}:
        result.find(f"{path.name}: it tells of chain {' and '.join(sorted(told))}, the nodes are on {chain}")
    for node in network.nodes:
        if node.name not in chains:
            result.find(f"{node.name}: it has no {DATABASE_NAME}")


def recompute(genesis: Genesis, chains: Mapping[str, Path], on_block: OnBlock | None = None) -> Recomputation:
    """Replay the databases of `chains`, by name of node, from genesis. `on_block` sees every block that holds, once."""
    result = Recomputation(build_state(genesis))
    with ExitStack() as stack:
        nodes: list[_Stored] = []
        for name, path in chains.items():
            try:
                rows, state = stack.enter_context(open_stored(path))
            except (UserError, sqlite3.Error) as error:
                result.find(f"{name}: cannot be read: {error}")
                continue
            nodes.append(_Stored(name, rows, state))
        _replay(result, nodes, on_block)
    for node in nodes:
        result.heights[node.name] = node.height
    return result


def _replay(result: Recomputation, nodes: Sequence[_Stored], on_block: OnBlock | None) -> None:
    """All chains side by side, height by height. A chain that does not hold is left where it breaks."""
    following = _advance(result, nodes)
    while following:
        decided = _decide(result, following)
        if decided is None:
            return
        before = result.state
        block, result.state = decided
        _count(result, before, block)
        if on_block is not None:
            on_block(before, block, result.state)
        following = _advance(result, [node for node in following if node.height == result.state.height])


def _advance(result: Recomputation, nodes: Sequence[_Stored]) -> list[_Stored]:
    """Read each chain's next row. Those that are at their end have their stored state compared, and drop out."""
    going_on = []
    for node in nodes:
        try:
            node.next = next(node.rows, None)
        except sqlite3.Error as error:
            result.find(f"{node.name}: block {node.height + 1} cannot be read: {error}", node.height + 1)
            continue
        if node.next is None:
            _compare_state(result, node)
        elif node.next.height != node.height + 1:
            why = "" if node.height else " (pruned: it cannot be recomputed from genesis)"
            what = f"{node.name}: block {node.height + 1} is missing, the next one stored is {node.next.height}{why}"
            result.find(what, node.height + 1)
        else:
            going_on.append(node)
    return going_on


def _decide(result: Recomputation, nodes: Sequence[_Stored]) -> tuple[Block, State] | None:
    """The block of the next height that holds, and the state after it; None when no chain has one."""
    checked: dict[tuple[bytes, bytes, bytes], tuple[Block, State] | str] = {}
    decided: tuple[Block, State] | None = None
    for node in nodes:
        assert node.next is not None
        row = node.next.block, node.next.certificate, node.next.restarts
        if row not in checked:
            checked[row] = _verify_row(result.state, node.next)
        outcome = checked[row]
        if isinstance(outcome, str):
            result.find(f"{node.name}: block {node.next.height}: {outcome}", node.next.height)
            continue
        if decided is None:
            decided = outcome
            result.restarts += decode_restarts(node.next.restarts)
        if outcome[1].block_id != decided[1].block_id:
            what = f"{node.name}: block {node.next.height} is certified, and so is another one of this height"
            result.find(what, node.next.height)
            continue
        node.height += 1
    return decided


def _verify_row(before: State, row: StoredBlock) -> tuple[Block, State] | str:
    """The block and the state after it, or what is wrong with the row."""
    try:
        block, certificate = decode(Block, row.block), decode(Certificate, row.certificate)
        return block, apply_decided(before, block, certificate, decode_restarts(row.restarts))
    except ProtocolError as error:
        return f"{type(error).__name__}: {error}"


def _count(result: Recomputation, before: State, block: Block) -> None:
    """Add up one block that holds, and count the grains after it."""
    height, supply = result.state.height, compute_supply(result.state)
    if supply != before.supply:
        result.find(f"block {height}: {supply} grains in all, genesis made {before.supply}", height)
    transactions = decode_transactions(block)
    for leaf in collect_leaves(transactions, height):
        result.leaves[leaf.channel, leaf.seq] = leaf
    result.blocks += 1
    result.transactions += len(transactions)


def _compare_state(result: Recomputation, node: _Stored) -> None:
    """A chain's end: the state its node has kept must be the recomputed one."""
    if node.state is None and node.height == 0:
        return
    if node.state is None:
        result.find(f"{node.name}: holds {node.height} blocks and no state", node.height)
        return
    try:
        is_same = node.state.restore() == result.state
    except ProtocolError as error:
        result.find(f"{node.name}: the stored state cannot be read: {error}", node.height)
        return
    if not is_same:
        root = compute_state_root(result.state).hex()
        what = f"{node.name}: the stored state is not the one after block {node.height}, whose root is {root}"
        result.find(what, node.height)
