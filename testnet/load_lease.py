"""Have storage nodes keep a file for a client of a load: put into its store, leased once enough of them let room."""

from pathlib import Path

import trio

from protocol.audit import Contents, measure_contents
from protocol.cid import Cid
from protocol.ledger.leases import LeaseBlob, compute_lease_id, compute_term_cost, find_price
from roles.node import RunningNode
from roles.store.importing import import_path
from roles.store.store import STORE_NAME, Store

PERIODS = 10
POLL_S = 0.1


async def lease_file(node: RunningNode, directory: Path, file: Path, copies: int) -> None:
    """Order the lease, unless it stands: a client that was killed and comes back finds it there."""
    cid, contents = await trio.to_thread.run_sync(_put, directory / STORE_NAME, file)
    account, packed = node.plan.keys.account.public, cid.pack()
    key = compute_lease_id(account, packed)
    while (price := find_price(node.core.ledger.offers, account, contents.size_bytes, copies)) is None:
        await trio.sleep(POLL_S)
    ledger = node.core.ledger
    if key not in ledger.leases:
        cost = compute_term_cost(contents.size_bytes, price, copies, PERIODS, ledger.params)
        node.order(key.hex(), LeaseBlob(packed, contents, price, copies, PERIODS, 0, cost))


def _put(folder: Path, file: Path) -> tuple[Cid, Contents]:
    with Store(folder) as store:
        root = import_path(store, file).root
        return root.cid, measure_contents(root.cid, store.read, root.dag_bytes).finish()
