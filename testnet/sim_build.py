"""Make the nodes of a simulated network: genesis and keys from the seed, a class for each role, all introduced."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocol.keys import PrivateKey
from protocol.ledger.genesis import Genesis, compute_chain_id
from protocol.ledger.params import Params
from roles import core_effects as ce
from roles.registry import load_role
from testnet.faults import LIARS
from testnet.genesis import (
    FEED_NAME,
    FEED_PATH,
    MODELS,
    PRICE_GRAINS,
    Foundation,
    NodeSeeds,
    build_genesis,
    name_nodes,
)
from testnet.kernel import START_MS, Kernel
from testnet.sim_inputs import FEED_URL, PriceWalk, get_engine, load_model_bytes, load_model_records
from testnet.sim_links import Fabric
from testnet.sim_node import Hooks, SimNode, Surroundings

BOOTSTRAP_MAX = 16
NEEDED_BY_ALL = ("validator", "storage")


@dataclass(frozen=True)
class Cast:
    """Which roles play, how many of each and by which class; the first `liars` inference nodes lie."""

    roles: Mapping[str, int]  # a name or package.module:Class -> count
    liars: int
    options: Mapping[str, Mapping[str, Any]]

    def name_keys(self) -> dict[str, str]:
        """Each role's own name, and what it was asked for by. ConfigError for one that cannot be loaded."""
        keys = {load_role(key).name: key for key in self.roles}
        if len(keys) != len(self.roles):
            raise ValueError(f"two of the roles {', '.join(self.roles)} have the same name")
        return keys


def build_nodes(
    seed: int, cast: Cast, kernel: Kernel, fabric: Fabric, hooks: Hooks
) -> tuple[Genesis, dict[str, SimNode]]:
    """The genesis, and the nodes by name, not yet started. ValueError for counts out of bounds."""
    keys = cast.name_keys()
    counts = {role: cast.roles[key] for role, key in keys.items()}
    network = cast.options.get("network", {})
    models = load_model_records(tuple(network.get("models", MODELS)))
    params = replace(Params(), **network.get("params", {}))
    foundation = build_genesis(seed, counts, models, now_ms=START_MS, params=params)
    around = Surroundings(
        kernel=kernel,
        fabric=fabric,
        engine=get_engine(),
        genesis=foundation.genesis,
        chain=compute_chain_id(foundation.genesis),
        fetch_url=PriceWalk(kernel.random("feed"), START_MS).fetch_url,
        hooks=hooks,
    )
    nodes = {
        name: _build_node(name, role, keys[role], cast, foundation, around) for name, role in name_nodes(counts).items()
    }
    _introduce(nodes, fabric)
    return foundation.genesis, nodes


def _build_node(name: str, role: str, key: str, cast: Cast, foundation: Foundation, around: Surroundings) -> SimNode:
    is_liar = role in LIARS and int(name.rpartition("-")[2]) < cast.liars
    given = {**cast.options.get(role, {}), **cast.options.get(key, {}), **cast.options.get(name, {})}
    kind = load_role(given.pop("class", LIARS[role] if is_liar else key))
    config = {**_get_options(role), **given}
    node = SimNode(name, kind, _open_keys(foundation.nodes[name]), config, around)
    if role == "storage":
        for digest, data in load_model_bytes().items():
            node.disk.keep_blob(data, digest)
    return node


def _introduce(nodes: Mapping[str, SimNode], fabric: Fabric) -> None:
    """Tell everybody whom to dial first: those whom all need before the rest, as a real test network does."""
    ranked = sorted(nodes.values(), key=lambda node: node.role not in NEEDED_BY_ALL)
    known = [(node.keys.node.public, (fabric.assign_address(node.name),)) for node in ranked]
    for node in nodes.values():
        others = [peer for peer in known if peer[0] != node.keys.node.public]
        node.bootstrap = tuple(others[:BOOTSTRAP_MAX])


def _open_keys(seeds: NodeSeeds) -> ce.NodeKeys:
    vote = PrivateKey.from_seed(seeds.vote) if seeds.vote is not None else None
    return ce.NodeKeys(PrivateKey.from_seed(seeds.node), PrivateKey.from_seed(seeds.account), vote)


def _get_options(role: str) -> dict[str, Any]:
    if role == "inference":
        return {"price": PRICE_GRAINS}
    if role == "oracle":
        return {"feeds": {FEED_NAME: {"url": FEED_URL, "path": FEED_PATH}}}
    return {}
