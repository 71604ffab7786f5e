"""Hold what everybody in a simulated network has kept against its ledger."""

from protocol.ledger.apply import apply_block
from protocol.ledger.genesis import build_state
from testnet.papers import ANSWERED, JOBS, REQUESTS, Papers
from testnet.reconcile import Reconciliation, reconcile
from testnet.sim import Network
from testnet.vouchers import Vouchers


def audit(network: Network, validator: str = "validator-0") -> Reconciliation:
    """The ledger is the validator's, applied block by block from genesis."""
    vouchers, state = Vouchers(), build_state(network.genesis)
    blocks = network.nodes[validator].disk.blocks
    for height in sorted(blocks):
        after = apply_block(state, blocks[height].block, check_signatures=False)
        vouchers.on_block(state, blocks[height].block, after)
        state = after
    kept = {name: node.disk.kv for name, node in network.nodes.items()}
    papers = {name: Papers(kv.get("receipt", {}), kv.get(REQUESTS, {}), _list_jobs(kv)) for name, kv in kept.items()}
    return reconcile(vouchers, papers)


def _list_jobs(kv: dict[str, dict[bytes, bytes]]) -> dict[bytes, bytes]:
    return {**kv.get(ANSWERED, {}), **kv.get(JOBS, {})}
