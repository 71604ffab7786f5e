"""What sets one node apart: `node.json` in its data directory, read, checked and written; and errors people can act on.

A data directory holds `node.json`, `genesis.json`, `keys/`, `node.db`, `blobs/`, `store/`, `receipts/`, `events.jsonl`,
`peers.json`, `status.json`, `control.sock` and `lock`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p2p.addresses import is_wildcard, parse_ip, parse_network
from protocol.errors import MalformedMessage, ProtocolError
from protocol.keys import parse_node
from protocol.ledger.genesis import Genesis
from roles.engine.remote.settings import BackendConfig, read_backend, verify_backends
from roles.files import write_atomically
from roles.store.bucket import parse_bucket

CONFIG_NAME = "node.json"
GENESIS_NAME = "genesis.json"
FORMAT = 1
CONFIG_BYTES_MAX = 1024 * 1024
GENESIS_BYTES_MAX = 16 * 1024 * 1024
ROLES_MAX = 16
BOOTSTRAP_MAX = 256
NAME_MAX = 64
ANNOUNCE_MAX = 4
TRUSTED_MAX = 64
DIRECT_MAX = 32
REACHABILITY = ("auto", "dial-back", "trusted")
ENGINE_WORKERS_MAX = 64
KEEP_BLOCKS_MIN = 1_000  # a peer that was away for a while is served from these
HEX_MARK = "hex:"

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_CONFIG, EXIT_UNREACHABLE = 0, 1, 2, 3, 4


class UserError(Exception):
    """Something a person can put right: what is wrong, what to do next, and the exit code for its kind."""

    def __init__(self, message: str, hint: str = "", exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class ConfigError(UserError):
    """A file of the data directory is missing, unreadable or says something impossible. Exit code 3."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, EXIT_CONFIG)


@dataclass(frozen=True)
class BootstrapPeer:
    """A peer to dial first: its node (`12D3Koo…`) and its multiaddrs, without /p2p."""

    node: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class NodeConfig:
    """The content of `node.json`.

    `roles` are names (`inference`), entry points of group `rolemesh.roles`, or `package.module:Class`. `listen` is a
    multiaddr; port 0 picks a free one. `options` are handed to each role by its name; bytes in them stand in the file
    as `"hex:…"`. `enrol` bonds and registers the node's roles on the ledger when they are not there yet.
    `engine_workers` is how many models run at once. `announce` are the multiaddrs others should dial, if not `listen`.
    `trusted` are networks no rule per address counts for. `reachability` is `auto` (peers must have dialled the node
    back before it serves, unless it announces loopback addresses alone), `dial-back` (they must) or `trusted` (they
    need not). `http` is a loopback address and port for `/livez`, `/readyz` and `/metrics`, port 0 for any; empty: off.
    `faults` lets whoever may open the control socket spoil the node's links on purpose: for test networks only.
    `direct` are peers whose operators have agreed to exchange all gossip, each naming the other. With `peer_exchange`
    peers are told of others when they are turned away from a mesh, and peers the operator vouches for are believed.
    `keep_blocks` is how many of the newest blocks are kept, at least KEEP_BLOCKS_MIN; 0 for all. `backends` are the
    models that servers of the operator's run instead of the node's own worker processes. `store_bytes_max` is the quota
    of `store/`; `store_bucket` is where its blocks are, `https://HOST/BUCKET/PREFIX`, if not in files.
    """

    name: str
    roles: tuple[str, ...]
    listen: str = "/ip4/127.0.0.1/tcp/0"
    bootstrap: tuple[BootstrapPeer, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    enrol: bool = False
    engine_workers: int = 1
    announce: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    reachability: str = "auto"
    http: str = ""
    faults: bool = False
    direct: tuple[BootstrapPeer, ...] = ()
    peer_exchange: bool = False
    keep_blocks: int = 0
    store_bytes_max: int = 10 * 1024**3
    store_bucket: str = ""
    backends: tuple[BackendConfig, ...] = ()


def read_config(directory: Path) -> NodeConfig:
    """The checked configuration of a data directory. Raises ConfigError with the next step."""
    path = directory / CONFIG_NAME
    hint = "make a data directory with `rolemesh node init --network FILE`"
    fields = _read_object(path, CONFIG_BYTES_MAX, hint)
    if fields.get("format") != FORMAT:
        raise ConfigError(f"{path}: format is {fields.get('format')!r}, this rolemesh reads {FORMAT}", hint)
    known = set(NodeConfig.__dataclass_fields__) | {"format"}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}", f"known keys are {', '.join(sorted(known))}")
    try:
        config = NodeConfig(
            name=_expect(fields, "name", str),
            roles=_expect_texts(fields, "roles", ROLES_MAX),
            listen=_expect(fields, "listen", str, NodeConfig.listen),
            bootstrap=tuple(_read_peer(peer) for peer in _expect(fields, "bootstrap", list, [])),
            options=_read_options(_expect(fields, "options", dict, {})),
            enrol=_expect(fields, "enrol", bool, NodeConfig.enrol),
            engine_workers=_expect(fields, "engine_workers", int, NodeConfig.engine_workers),
            announce=_expect_texts(fields, "announce", ANNOUNCE_MAX, []),
            trusted=_expect_texts(fields, "trusted", TRUSTED_MAX, []),
            reachability=_expect(fields, "reachability", str, NodeConfig.reachability),
            http=_expect(fields, "http", str, NodeConfig.http),
            faults=_expect(fields, "faults", bool, NodeConfig.faults),
            direct=tuple(_read_peer(peer) for peer in _expect(fields, "direct", list, [])),
            peer_exchange=_expect(fields, "peer_exchange", bool, NodeConfig.peer_exchange),
            keep_blocks=_expect(fields, "keep_blocks", int, NodeConfig.keep_blocks),
            store_bytes_max=_expect(fields, "store_bytes_max", int, NodeConfig.store_bytes_max),
            store_bucket=_expect(fields, "store_bucket", str, NodeConfig.store_bucket),
            backends=tuple(read_backend(entry) for entry in _expect(fields, "backends", list, [])),
        )
        verify_config(config)
    except (ValueError, MalformedMessage) as error:
        raise ConfigError(f"{path}: {error}", f"correct {path.name}, or {hint}") from error
    return config


def write_config(directory: Path, config: NodeConfig) -> None:
    """Write `node.json` atomically. ConfigError when the configuration is none `read_config` would take."""
    try:
        verify_config(config)
        text = json.dumps({"format": FORMAT, **asdict(config)}, indent=1, default=_encode_bytes)
    except (TypeError, ValueError, MalformedMessage) as error:
        raise ConfigError(f"this configuration cannot be written: {error}") from error
    write_atomically(directory / CONFIG_NAME, text + "\n")


def verify_config(config: NodeConfig) -> None:
    """ValueError or MalformedMessage for what no node could run with."""
    if not 0 < len(config.name) <= NAME_MAX or not config.name.isprintable() or "/" in config.name:
        raise ValueError(f"name {config.name[:NAME_MAX]!r} is empty, longer than {NAME_MAX} or not printable")
    if not 0 < len(config.roles) <= ROLES_MAX or len(set(config.roles)) != len(config.roles):
        raise ValueError(f"roles: from 1 to {ROLES_MAX} different ones, not {list(config.roles)}")
    if not config.listen.startswith("/"):
        raise ValueError(f"listen {config.listen!r} is no multiaddr like {NodeConfig.listen}")
    if len(config.bootstrap) > BOOTSTRAP_MAX:
        raise ValueError(f"bootstrap: {len(config.bootstrap)} peers, at most {BOOTSTRAP_MAX}")
    if len(config.direct) > DIRECT_MAX or not all(peer.addresses for peer in config.direct):
        raise ValueError(f"direct: {len(config.direct)} peers, at most {DIRECT_MAX}, each with an address")
    for peer in (*config.bootstrap, *config.direct):
        parse_node(peer.node)
    if not 1 <= config.engine_workers <= ENGINE_WORKERS_MAX:
        raise ValueError(f"engine_workers {config.engine_workers}: from 1 to {ENGINE_WORKERS_MAX}")
    if len(config.announce) > ANNOUNCE_MAX or not all(is_dialable(text) for text in config.announce):
        raise ValueError(f"announce {list(config.announce)}: at most {ANNOUNCE_MAX} like /ip4/192.0.2.7/tcp/4001")
    if len(config.trusted) > TRUSTED_MAX:
        raise ValueError(f"trusted: {len(config.trusted)} networks, at most {TRUSTED_MAX}")
    for network in config.trusted:
        parse_network(network)
    if config.reachability not in REACHABILITY:
        raise ValueError(f"reachability {config.reachability!r} is none of {', '.join(REACHABILITY)}")
    if config.http:
        parse_http(config.http)
    if config.keep_blocks and config.keep_blocks < KEEP_BLOCKS_MIN:
        raise ValueError(f"keep_blocks {config.keep_blocks}: 0 for all, or at least {KEEP_BLOCKS_MIN}")
    if config.store_bytes_max < 0:
        raise ValueError(f"store_bytes_max {config.store_bytes_max}: a number of bytes")
    if config.store_bucket:
        parse_bucket(config.store_bucket)
    verify_backends(config.backends)


def parse_http(text: str, may_be_public: bool = False) -> tuple[str, int]:
    """Host and port to serve HTTP on; port 0 picks a free one. ValueError for what is no address, or not of loopback.

    >>> parse_http("127.0.0.1:9464"), parse_http("[::1]:0")
    (('127.0.0.1', 9464), ('::1', 0))
    """
    host, _, port = text.rpartition(":")
    address = parse_ip(host.removeprefix("[").removesuffix("]"))
    is_fit = address is not None and (may_be_public or address.is_loopback)
    if not is_fit or not port.isdecimal() or int(port) >= 65_536:
        kind = "address" if may_be_public else "loopback address"
        raise ValueError(f"http {text!r} is no {kind} and port like 127.0.0.1:9464")
    return str(address), int(port)


def parse_peer(text: str) -> BootstrapPeer:
    """A peer and where to dial it. ValueError for anything but `/ip4/HOST/tcp/PORT/p2p/NODE` (or ip6).

    >>> parse_peer("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA").addresses
    ('/ip4/192.0.2.7/tcp/4001',)
    """
    address, separator, node = text.partition("/p2p/")
    if not separator or not is_dialable(address):
        raise ValueError(f"{text!r} is no peer like /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo…")
    try:
        parse_node(node)
    except MalformedMessage as error:
        raise ValueError(str(error)) from error
    return BootstrapPeer(node, (address,))


def is_dialable(text: str) -> bool:
    """Whether others could dial a multiaddr: a specific IP and a port.

    >>> is_dialable("/ip4/192.0.2.7/tcp/4001"), is_dialable("/ip4/0.0.0.0/tcp/4001")
    (True, False)
    """
    parts = text.split("/")
    if len(parts) != 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        return False
    return (
        parse_ip(parts[2]) is not None and not is_wildcard(text) and parts[4].isdecimal() and 0 < int(parts[4]) < 65_536
    )


def read_genesis(directory: Path) -> Genesis:
    """The genesis of a data directory. Raises ConfigError."""
    path = directory / GENESIS_NAME
    hint = "copy it again from the network file: `rolemesh node init --network FILE` into a new directory"
    text = _read_text(path, GENESIS_BYTES_MAX, hint)
    try:
        return Genesis.from_json(text)
    except (ProtocolError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no genesis: {error}", hint) from error


def write_genesis(directory: Path, genesis: Genesis) -> None:
    """Write `genesis.json` atomically."""
    write_atomically(directory / GENESIS_NAME, genesis.to_json())


def _read_peer(fields: Any) -> BootstrapPeer:
    if not isinstance(fields, dict):
        raise ValueError("bootstrap: every entry is an object with node and addresses")
    return BootstrapPeer(_expect(fields, "node", str), _expect_texts(fields, "addresses", BOOTSTRAP_MAX))


def _read_options(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for role, options in fields.items():
        if not isinstance(options, dict):
            raise ValueError(f"options of {role!r} are {type(options).__name__}, not an object")
    decoded: dict[str, dict[str, Any]] = _decode_bytes(fields)
    return decoded


def _encode_bytes(value: Any) -> str:
    if isinstance(value, bytes):
        return HEX_MARK + value.hex()
    raise TypeError(f"{type(value).__name__} has no place in {CONFIG_NAME}")


def _decode_bytes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decode_bytes(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_decode_bytes(inner) for inner in value]
    if isinstance(value, str) and value.startswith(HEX_MARK):
        return bytes.fromhex(value.removeprefix(HEX_MARK))
    return value


def _expect_texts(
    fields: Mapping[str, Any], key: str, count_max: int, default: list[str] | None = None
) -> tuple[str, ...]:
    values = _expect(fields, key, list, default)
    if len(values) > count_max or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is not a list of at most {count_max} texts")
    return tuple(values)


def _expect(fields: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = fields.get(key, default)
    if value is None:
        raise ValueError(f"{key} is missing")
    # bool is a kind of int in Python, and `true` is no count.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} is {type(value).__name__}, not {kind.__name__}")
    return value


def _read_object(path: Path, size_max: int, hint: str) -> dict[str, Any]:
    text = _read_text(path, size_max, hint)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint) from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds {type(fields).__name__}, not an object", hint)
    return fields


def _read_text(path: Path, size_max: int, hint: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint) from error
    if len(data) > size_max:
        raise ConfigError(f"{path} is larger than {size_max} bytes", hint)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text: {error.reason}", hint) from error
