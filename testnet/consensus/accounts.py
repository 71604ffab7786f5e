"""The ledger that simulated validators begin with, and what its accounts want: made once, the same for every seed.

Seeds choose among these transactions; since most runs use the same ones, signatures are made and verified once.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from protocol.codec import encode
from protocol.keys import PrivateKey, Signer
from protocol.ledger.fees import with_fee
from protocol.ledger.genesis import build_state
from protocol.ledger.state import State
from protocol.ledger.transactions import Delegate, Transaction, Transfer, Undelegate, get_transaction_kind
from protocol.signing import sign
from protocol.types import GRAINS_PER_ROLE
from roles.core_effects import NodeKeys
from testnet.consensus.weather import name_validators
from testnet.genesis import NodeSeeds, build_genesis

START_MS = 1_700_000_000_000
EPOCH_MS = 3_000  # so that validators and their weights change within a run
ACCOUNTS = 6
VARIANTS = 4  # different transactions an account may make under one number
BASE_FEES = 20  # what a transaction may pay, in least base fees
LASTING_MS = 3_600_000


@dataclass(frozen=True)
class Stage:
    """What all runs with so many validators share."""

    genesis: State
    keys: tuple[NodeKeys, ...]  # of the validators
    accounts: tuple[PrivateKey, ...]


@lru_cache
def set_stage(validators: int) -> Stage:
    """The ledger before its first block. Validators have the same keys however many there are."""
    roles = {"validator": len(name_validators(validators))}
    foundation = build_genesis(1, roles, (), spare_accounts=ACCOUNTS, now_ms=START_MS)
    params = replace(foundation.genesis.params, epoch_ms=EPOCH_MS)
    genesis = build_state(replace(foundation.genesis, params=params))
    accounts = tuple(PrivateKey.from_seed(seed) for seed in foundation.spare)
    return Stage(genesis, tuple(_open(seeds) for seeds in foundation.nodes.values()), accounts)


@lru_cache(maxsize=4_096)
def make_transaction(validators: int, account: int, nonce: int, variant: int) -> bytes:
    """What an account may want under a number, encoded; different variants of one number exclude each other."""
    stage = set_stage(validators)
    owner = stage.accounts[account]
    backed = stage.keys[account % validators].account.public
    other = stage.accounts[(account + 1 + variant) % ACCOUNTS].public
    body: Transfer | Delegate | Undelegate = Transfer(other, (1 + nonce + variant) * GRAINS_PER_ROLE)
    if variant == 1:
        body = Delegate(backed, 20 * GRAINS_PER_ROLE)
    elif variant == 2 and nonce:
        body = Undelegate(backed, 10 * GRAINS_PER_ROLE)
    return make_signed(stage.genesis, owner, nonce, body)


def make_signed(state: State, owner: Signer, nonce: int, body: object) -> bytes:
    """A signed transaction that lasts longer than any run, encoded."""
    unsigned = Transaction(
        chain=state.chain,
        account=owner.public,
        nonce=nonce,
        kind=get_transaction_kind(type(body)),
        body=encode(body),
        fee=0,
        tip=0,
        valid_until_ms=START_MS + LASTING_MS,
        signature=bytes(64),
    )
    return encode(sign(with_fee(unsigned, BASE_FEES * state.params.base_fee_min, tip=nonce), owner))


def _open(seeds: NodeSeeds) -> NodeKeys:
    assert seeds.vote is not None
    return NodeKeys(*(PrivateKey.from_seed(seed) for seed in (seeds.node, seeds.account, seeds.vote)))
