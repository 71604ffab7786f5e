"""Have what `rolemesh store get` wants fetched from a network first."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testnet.cli.arguments import open_network
from testnet.cli.output import CommandError, ExitCode, Output, format_bytes
from testnet.cli.progress import Progress
from testnet.network_file import is_running

if TYPE_CHECKING:
    from protocol.cid import Cid
    from roles.gather_orders import Peers

KEPT_MS = 24 * 3_600_000  # what a client fetched, if the command ends before it has written it out
AGAIN = "run the same command again: what has come is not fetched twice"
HINTS = {
    "StoreFull": "`rolemesh store unpin` and `gc` make room; store_bytes_max in node.json is the quota",
    "DiskFull": "free some disk, then run the same command again",
    "MalformedMessage": "it was not made by this store; have its owner put it there anew",
}


@contextmanager
def fetched(
    cid: "Cid", network: Path | None, sources: Sequence[str], timeout_s: float, data: Path, output: Output
) -> Iterator[Path]:
    """The data directory in whose store it is now. One of a client's own keeps it only while inside. CommandError."""
    from roles.config import CONFIG_NAME
    from roles.lock import is_locked
    from testnet.cli.wallet import ask_running
    from testnet.fetch import fetch_with_client, fetch_with_node

    peers = _read_sources(sources, network)
    progress = Progress()
    if (data / CONFIG_NAME).is_file() and is_locked(data):
        entries = [{"node": _format(peer), "addresses": list(addresses)} for peer, addresses in peers]
        try:
            told = fetch_with_node(
                lambda request: ask_running(data, request),
                {"cid": str(cid), "peers": entries},
                timeout_s,
                lambda told: progress.show(_describe(told)),
            )
        finally:
            progress.end()
        _verify_held(cid, told, timeout_s)
        yield data
        return
    directory, storers = _open_client(network)
    output.note(f"joining the network to fetch {cid}")
    try:
        told = fetch_with_client(
            directory, cid, peers, storers, KEPT_MS, timeout_s, lambda told: progress.show(_describe(told))
        )
    except KeyboardInterrupt:
        output.note(f"\n{AGAIN}")
        raise
    finally:
        progress.end()
    _verify_held(cid, told, timeout_s)
    try:
        yield directory
    finally:
        _let_go(directory, cid)


def _read_sources(sources: Sequence[str], network: Path | None) -> "Peers":
    return tuple(_read_source(text, network) for text in sources)


def _read_source(text: str, network: Path | None) -> tuple[bytes, tuple[str, ...]]:
    """A peer by multiaddr, or by its name in the network."""
    from protocol.keys import parse_node
    from roles.config import parse_peer

    if text.startswith("/"):
        try:
            peer = parse_peer(text)
        except ValueError as error:
            hint = "it is written /ip4/HOST/tcp/PORT/p2p/NODE, or is the name of a node of the network"
            raise CommandError("bad_peer", str(error), hint, ExitCode.USAGE) from error
        return parse_node(peer.node), peer.addresses
    _, found = open_network(network)
    node = found.get_node(text)
    if node is None:
        names = ", ".join(each.name for each in found.nodes)
        raise CommandError("unknown_name", f"no node {text!r} in {found.name}", f"there is: {names}", ExitCode.USAGE)
    return parse_node(node.node), node.addresses


def _open_client(network: Path | None) -> "tuple[Path, Peers]":
    """The directory of a client that nobody uses, and the storage nodes its network began with."""
    from testnet.fetch import list_storers
    from testnet.join import NoAccount, open_client

    path, found = open_network(network)
    if not is_running(path.parent):
        what = f"network {found.name} is not running"
        raise CommandError("not_running", what, "start one with `rolemesh testnet up`", ExitCode.UNREACHABLE)
    try:
        return open_client(path), list_storers(found)
    except NoAccount as error:
        raise CommandError("no_account", error.message, error.hint, ExitCode.CONFIG) from error


def _verify_held(cid: "Cid", told: Mapping[str, Any], timeout_s: float) -> None:
    if told["state"] == "held":
        return
    if told["state"] == "fetching":
        what = f"{cid} is not here after {timeout_s:g} s: {_describe(told)}"
        raise CommandError("timeout", what, f"{AGAIN}; give it more time with --timeout", ExitCode.TIMEOUT)
    kind, _, _ = told["reason"].partition(":")
    hint = HINTS.get(kind, f"name nodes that have it with --from, and see that they run; then {AGAIN}")
    raise CommandError("not_fetched", f"{cid} cannot be fetched: {told['reason']}", hint, ExitCode.FAILURE)


def _let_go(directory: Path, cid: "Cid") -> None:
    """Nobody looks after the store of such a client: what was written out is not kept there as well."""
    from roles.store.collecting import collect
    from roles.store.store import STORE_NAME, Store

    with Store(directory / STORE_NAME) as store:
        store.unpin(cid)
        collect(store)


def _describe(told: Mapping[str, Any]) -> str:
    total = f" of {format_bytes(told['total_bytes'])}" if told["total_bytes"] else ""
    return f"fetching: {format_bytes(told['block_bytes'])}{total}"


def _format(peer: bytes) -> str:
    from protocol.keys import format_node

    return format_node(peer)
