"""A network's folder as commands read it that need no running node: its file, and one node with a stored ledger."""

import json
from pathlib import Path

from protocol.ledger.genesis import compute_chain_id
from roles.chain import Chain
from roles.config import write_genesis
from roles.core_effects import Commit
from testnet.network_file import NetworkFile, NodeEntry, write_network_file
from tests.support.ledgers import Ledger


def write_stored_node(root: Path, ledger: Ledger, name: str) -> Path:
    """Write both for a node such as `oracle-0`, with the blocks of this ledger; the same folder is given back."""
    folder = root / "nodes" / name
    folder.mkdir(parents=True)
    genesis = ledger.foundation.genesis
    write_genesis(folder, genesis)
    chain = Chain(folder / "node.db")
    chain.start()
    chain.write([Commit(*entry) for entry in ledger.blocks])
    chain.close()
    nodes = (NodeEntry(name, name.partition("-")[0], "12D3", "rm1", (), f"nodes/{name}"),)
    told = NetworkFile("dev-7", compute_chain_id(genesis).hex(), 7, 1, json.loads(genesis.to_json()), nodes, ())
    write_network_file(root / "testnet.json", told)
    return root
