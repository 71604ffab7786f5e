"""What tests of a core's parts start from: a founded network, its state, and a courier of one of its nodes."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from protocol.keys import PrivateKey
from protocol.ledger.apply import build_block
from protocol.ledger.block import Block
from protocol.ledger.genesis import build_state, compute_chain_id
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction
from roles.courier import Courier
from roles.mailbox import Mailbox
from testnet.genesis import Foundation, build_genesis

GENESIS_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Parts:
    """One node's keys and courier on the ledger of a new network."""

    foundation: Foundation
    state: State
    node: PrivateKey
    account: PrivateKey
    courier: Courier
    rng: random.Random

    def build(self, transactions: list[Transaction], after_ms: int = 1_000) -> tuple[Block, State]:
        """The next block on `state`. Fails the test if a transaction is dropped."""
        builder = PrivateKey.from_seed(self.foundation.nodes["validator-0"].account).public
        block, state, dropped = build_block(self.state, transactions, self.state.time_ms + after_ms, builder)
        assert not dropped, dropped
        return block, state


def make_parts(name: str = "client-0", seed: int = 1, roles: Mapping[str, int] | None = None) -> Parts:
    foundation = build_genesis(seed, roles, now_ms=GENESIS_MS)
    seeds = foundation.nodes[name]
    node, account = PrivateKey.from_seed(seeds.node), PrivateKey.from_seed(seeds.account)
    chain = compute_chain_id(foundation.genesis)
    courier = Courier(Mailbox(node, chain, boot=1), chain)
    return Parts(foundation, build_state(foundation.genesis), node, account, courier, random.Random(seed))
