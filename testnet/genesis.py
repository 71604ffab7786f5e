"""Found a test network: a genesis and everybody's keys, all of it derived from one seed.

Every named node stands in genesis with a funded account and the bond its role asks for, so a network serves from its
first second. The keys are public by construction: anyone who knows the seed has them. They are for test networks only.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from protocol.keys import PrivateKey
from protocol.ledger.feed_records import FeedRecord
from protocol.ledger.genesis import Allocation, Genesis, GenesisNode
from protocol.ledger.model_records import Calibration, ModelRecord, TensorSpec
from protocol.ledger.params import Params
from protocol.ledger.randomness import grow_onion
from protocol.types import GRAINS_PER_ROLE

NODES_MAX = 250
SPARE_ACCOUNTS_MAX = 250
NODE_BALANCE_GRAINS = 10_000 * GRAINS_PER_ROLE
PRICE_GRAINS = GRAINS_PER_ROLE // 1_000  # per row
DEFAULT_ROLES: Mapping[str, int] = {
    "validator": 1,
    "inference": 3,
    "verifier": 2,
    "oracle": 1,
    "storage": 1,
    "client": 1,
}
MODELS = ("digits", "digits-fp32")  # of those that ship: each one more is a process more at every node that runs them
FEED_NAME = "GOOG"  # weekly closing prices, see testnet/feed_server.py
FEED_PATH = "value"


@dataclass(frozen=True)
class NodeSeeds:
    """The 32-byte seeds of one node's keys. `vote` is a validator's only."""

    node: bytes
    account: bytes
    vote: bytes | None = None


@dataclass(frozen=True)
class Foundation:
    """A genesis with the keys it names: of every node by its name, and of accounts nobody uses yet."""

    genesis: Genesis
    nodes: Mapping[str, NodeSeeds]
    spare: tuple[bytes, ...]  # account seeds, each funded with NODE_BALANCE_GRAINS


def build_genesis(
    seed: int,
    roles: Mapping[str, int] | None = None,
    models: Sequence[ModelRecord] | None = None,
    spare_accounts: int = 8,
    now_ms: int = 0,
    params: Params | None = None,
) -> Foundation:
    """The genesis of a test network that starts at `now_ms`. The same arguments give the same bytes.

    `roles` says how many nodes of each role there are; they are called `inference-0`, `inference-1` and so on. `models`
    are MODELS, `params` the defaults unless given. Raises ValueError for counts out of bounds.
    """
    names = name_nodes(DEFAULT_ROLES if roles is None else roles)
    if not 0 <= spare_accounts <= SPARE_ACCOUNTS_MAX:
        raise ValueError(f"spare accounts: from 0 to {SPARE_ACCOUNTS_MAX}, not {spare_accounts}")
    known = tuple(load_models() if models is None else models)
    params = params or Params()
    seeds = {name: derive_seeds(seed, name, role) for name, role in names.items()}
    spare = tuple(_derive(seed, f"spare-{index}", "account") for index in range(spare_accounts))
    nodes = tuple(_build_node(seeds[name], role, known, params) for name, role in names.items())
    holders = [PrivateKey.from_seed(keys.account).public for keys in seeds.values()]
    holders += [PrivateKey.from_seed(account).public for account in spare]
    genesis = Genesis(
        name=f"dev-{seed}",
        time_ms=now_ms,
        seed=_derive(seed, "genesis", "seed"),
        params=params,
        allocations=tuple(Allocation(holder, NODE_BALANCE_GRAINS) for holder in sorted(holders)),
        vesting=(),
        treasury=0,
        nodes=nodes,
        models=known,
        feeds=(FeedRecord(FEED_NAME),),
    )
    return Foundation(genesis, seeds, spare)


def name_nodes(roles: Mapping[str, int]) -> dict[str, str]:
    """The name and role of every node, in the order of `roles`. Raises ValueError for counts out of bounds.

    >>> name_nodes({"inference": 2, "client": 1})
    {'inference-0': 'inference', 'inference-1': 'inference', 'client-0': 'client'}
    """
    if not 0 < sum(roles.values()) <= NODES_MAX or min(roles.values()) < 0:
        raise ValueError(f"a network has from 1 to {NODES_MAX} nodes, not {dict(roles)}")
    return {f"{role}-{index}": role for role, count in roles.items() for index in range(count)}


def load_models(names: Collection[str] = MODELS) -> tuple[ModelRecord, ...]:
    """The records of those models, of the ones that ship with rolemesh, in the order of the manifest."""
    return tuple(read_model_record(fields) for fields in read_manifest() if fields["name"] in names)


def list_shipped() -> list[str]:
    """The names of all models that ship with rolemesh."""
    return [fields["name"] for fields in read_manifest()]


def read_manifest() -> list[dict[str, Any]]:
    """What `testnet/models/models.json` says of each model that ships with rolemesh."""
    text = resources.files("testnet").joinpath("models/models.json").read_text(encoding="utf-8")
    models: list[dict[str, Any]] = json.loads(text)["models"]
    return models


def read_model_record(fields: Mapping[str, Any]) -> ModelRecord:
    """One entry of `models.json` as the ledger has it."""
    found = [fields["calibration"]] if "calibration" in fields else []
    return ModelRecord(
        name=fields["name"],
        digest=bytes.fromhex(fields["sha256"]),
        exact=int(fields["class"] == "exact"),
        inputs=tuple(TensorSpec(spec["dtype"], tuple(spec["shape"])) for spec in fields["inputs"]),
        outputs=tuple(TensorSpec(spec["dtype"], tuple(spec["shape"])) for spec in fields["outputs"]),
        labels=tuple(fields.get("vocabulary", fields["labels"])),  # of a generative model, its tokens
        size_bytes=fields["size_bytes"],
        calibration=tuple(Calibration(**each | {"versions": tuple(each["versions"])}) for each in found),
    )


def _build_node(seeds: NodeSeeds, role: str, models: tuple[ModelRecord, ...], params: Params) -> GenesisNode:
    runs_models = role in ("inference", "verifier")
    return GenesisNode(
        account=PrivateKey.from_seed(seeds.account).public,
        node=PrivateKey.from_seed(seeds.node).public,
        vote=PrivateKey.from_seed(seeds.vote).public if seeds.vote is not None else b"",
        roles=(role,),
        models=tuple(sorted(model.digest for model in models)) if runs_models else (),
        price=PRICE_GRAINS if role == "inference" else 0,
        bond=params.get_bond_min(role),
        onion=grow_onion(PrivateKey.from_seed(seeds.vote), 0).tip if seeds.vote is not None else b"",
    )


def derive_seeds(seed: int, name: str, role: str) -> NodeSeeds:
    """What a test network's node of this name has for keys."""
    vote = _derive(seed, name, "vote") if role == "validator" else None
    return NodeSeeds(_derive(seed, name, "node"), _derive(seed, name, "account"), vote)


def _derive(seed: int, name: str, purpose: str) -> bytes:
    return hashlib.sha256(f"rolemesh/testnet/{seed}/{name}/{purpose}".encode()).digest()
