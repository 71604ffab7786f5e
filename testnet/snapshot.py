"""The state a ledger had at an earlier height, recomputed from what a node has stored."""

from pathlib import Path

from protocol.ledger.block import Block
from protocol.ledger.genesis import build_state
from protocol.ledger.state import State, compute_state_root
from roles.config import UserError, read_genesis
from testnet.recompute import find_chains, recompute


def read_snapshot(directory: Path, height: int, root: bytes) -> State:
    """The state of a network's or node's directory after block `height`. UserError when there is none of this root."""
    found: list[State] = []

    def keep(_: State, __: Block, after: State) -> None:
        if after.height == height:
            found.append(after)

    for name, path in find_chains(directory).items():
        genesis = read_genesis(path.parent)
        if height == 0:
            found.append(build_state(genesis))
        else:
            recompute(genesis, {name: path}, keep)
        if found and compute_state_root(found[-1]) == root:
            return found[-1]
    hint = "a node that has every block from genesis on has it: name its directory with --from"
    raise UserError(f"the ledger in {directory} has no state {root.hex()[:16]}… of height {height}", hint)
