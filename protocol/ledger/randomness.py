"""Seeds nobody chooses: every block reveals the next layer of its builder's hash onion, committed to long before.

A validator commits to the outermost hash of a chain of hashes, its *tip*. Each of its blocks reveals what hashes to the
tip, which then is the tip. A new onion counts from the next epoch on: chosen now, it is chosen without knowing the seed
it will be mixed with. A builder without a valid layer leaves it out and earns nothing by its block.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from protocol.errors import InvalidBlock
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer, format_account
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import VALIDATOR
from protocol.ledger.errors import InvalidNode, InvalidOnion
from protocol.ledger.records import Onion
from protocol.ledger.state import State
from protocol.ledger.transactions import CommitOnion
from protocol.signing import compute_domain_prefix
from protocol.types import BP

LAYERS = 4_000  # blocks a validator builds with one onion
RESERVE_BP = 2_500  # of an onion's layers: with so few left the next one is committed to
_ONION = compute_domain_prefix("onion")
_SEED = compute_domain_prefix("seed")


@fast_dataclass(frozen=True)
class OnionSecret:
    """What only the holder of a vote key can compute, so that an onion needs no keeping."""

    layers: Mapping[bytes, bytes]  # what hashes to a tip, by tip
    left: Mapping[bytes, int]  # how many blocks a tip is still good for
    tip: bytes


@lru_cache(maxsize=32)  # a validator looks at its own after every block, and each look would be a signature
def grow_onion(vote: Signer, number: int) -> OnionSecret:
    """The onion of a vote key that has this number; each number gives another one."""
    return _grow(hashlib.sha256(vote.sign(_ONION + number.to_bytes(8, "big"))).digest(), LAYERS)


def peel(tip: bytes) -> bytes:
    """The hash of a layer.

    >>> peel(bytes(32)).hex()[:16]
    '66687aadf862bd77'
    """
    return hashlib.sha256(tip).digest()


def find_reveal(state: State, account: bytes, vote: Signer) -> bytes | None:
    """What an account's next block reveals; None while it has no onion, or has come to its end."""
    onion = state.onions.get(account)
    return None if onion is None or not onion.tip else grow_onion(vote, onion.number).layers.get(onion.tip)


def plan_onion(state: State, account: bytes, vote: Signer) -> CommitOnion | None:
    """What an account's validator commits to next, in time for it to count before the onion it has ends.

    None while that one lasts, the next is on its way, or the ledger knows the validator by another vote key.
    """
    node = state.nodes.get(account)
    if node is None or node.vote != vote.public:
        return None
    known = state.onions.get(account) or Onion(b"", 0, b"", 0)
    is_next = bool(known.next_tip)
    tip, number = (known.next_tip, known.next_number) if is_next else (known.tip, known.number)
    left = grow_onion(vote, number).left.get(tip, 0) if tip else 0
    if left >= LAYERS * RESERVE_BP // BP:
        return None
    fresh = max(known.number, known.next_number) + 1
    return CommitOnion(fresh, grow_onion(vote, fresh).tip)


def apply_commit_onion(draft: Draft, context: TransactionContext, body: CommitOnion) -> None:
    """Commit to a new onion, from the next epoch on. Its number is above all before, so that none comes twice."""
    node = draft.nodes.get(context.account)
    if node is None or VALIDATOR not in node.roles:
        raise InvalidNode(f"account {format_account(context.account)} has no validator")
    known = draft.onions.get(context.account) or Onion(b"", 0, b"", 0)
    least = max(known.number, known.next_number) + 1
    if body.number < least:
        raise InvalidOnion(body.number, least)
    draft.onions.put(context.account, replace(known, next_tip=body.tip, next_number=body.number))


def mix_seed(draft: Draft, builder: bytes, reveal: bytes) -> None:
    """What a block reveals enters the ledger's seed. InvalidBlock when it does not fit the tip."""
    if reveal:
        onion = draft.onions.get(builder)
        if onion is None or peel(reveal) != onion.tip:
            raise InvalidBlock(f"block {draft.height} reveals {reveal.hex()}, no layer of its builder's onion")
        draft.onions.put(builder, replace(onion, tip=reveal))
    draft.revealer = builder if reveal else b""
    draft.seed = hashlib.sha256(_SEED + draft.seed + (reveal or draft.height.to_bytes(8, "big"))).digest()


def _grow(secret: bytes, count: int) -> OnionSecret:
    layers, left, layer = {}, {}, secret
    for number in range(1, count + 1):
        outer = peel(layer)
        layers[outer], left[outer], layer = layer, number, outer
    return OnionSecret(MappingProxyType(layers), MappingProxyType(left), layer)
