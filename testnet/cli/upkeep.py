"""`rolemesh ledger replay|snapshot|restore`: recompute a ledger from genesis, carry it away, put it back."""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, open_network
from testnet.cli.node import DATA, Data
from testnet.cli.output import CommandError, ExitCode, Output, format_bytes, format_count
from testnet.cli.progress import Progress

if TYPE_CHECKING:
    from protocol.ledger.block import Block
    from protocol.ledger.state import State
    from testnet.recompute import OnBlock, Recomputation

DATABASE_NAME = "node.db"


def add_to(app: App) -> None:
    """Add the commands to the ledger's."""
    app.command(
        replay,
        help_epilogue="Examples:\n\n  rolemesh ledger replay\n\n  rolemesh ledger replay .rolemesh/dev-42 --json\n\n"
        "  rolemesh ledger replay ./worker",
    )
    app.command(
        snapshot,
        help_epilogue="Examples:\n\n  rolemesh ledger snapshot ledger.snapshot --data ./worker\n\n"
        "  rolemesh ledger snapshot ledger.snapshot --data ./worker --json",
    )
    app.command(
        restore,
        help_epilogue="Examples:\n\n  rolemesh ledger restore ledger.snapshot --data ./worker\n\n"
        "  rolemesh ledger restore pruned.snapshot --data ./worker --trust --json",
    )


def replay(directory: Path | None = None, /, *, json: Json = False) -> int:
    """Recompute every signature, certificate and state root from genesis on. Exits 6 and names the first height that
    differs.

    Parameters
    ----------
    directory
        Directory of a network or of one node; the newest network under ./.rolemesh unless given.
    """
    from protocol.ledger.state import compute_state_root

    output = Output(json)
    begun_s = time.monotonic()
    result = recompute_shown(directory)
    took_s = time.monotonic() - begun_s
    root = compute_state_root(result.state)
    for name, height in result.heights.items():
        output.say(f"{name:>14}  holds up to height {height}")
    counts = f"{format_count(result.blocks, 'block')}, {format_count(result.transactions, 'transaction')}"
    output.say(f"{counts} recomputed in {took_s:.1f} s; state root {root.hex()}")
    fields = {"blocks": result.blocks, "transactions": result.transactions, "took_s": round(took_s, 3)}
    output.give({"holds": True, "height": result.state.height, "state_root": root, "heights": result.heights, **fields})
    return int(ExitCode.OK)


def snapshot(file: Annotated[Path, Parameter(name="FILE")], /, *, data: Data = DATA, json: Json = False) -> None:
    """Write a node's ledger to one file, blocks and state as of one moment. The node may be running.

    What its roles keep, vouchers and work, is not in it: put back later it would be out of date, and that costs money.
    """
    from roles.chain import copy_ledger

    output = Output(json)
    source = data / DATABASE_NAME
    if not source.is_file():
        raise CommandError(
            "no_ledger", f"{source} is not there", "name a node's directory with --data", ExitCode.CONFIG
        )
    output.note(f"copying {format_bytes(source.stat().st_size)}")
    chain, first, last = _write_whole(file, lambda target: copy_ledger(source, target, boot=0))
    size_bytes = file.stat().st_size
    output.say(f"{file}: blocks {first} to {last} of chain {chain.hex()}, {format_bytes(size_bytes)}")
    output.give({"file": file, "chain": chain, "first": first, "height": last, "bytes": size_bytes})


def restore(
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    data: Data = DATA,
    trust: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> None:
    """Put a snapshot into a node's directory that has no ledger. Everything in it is recomputed from genesis first.

    Parameters
    ----------
    trust
        Believe its blocks, and check only that the state is the one its last block names: for a snapshot of a pruned
        node, or one of your own.
    """
    from protocol.ledger.genesis import compute_chain_id
    from roles.chain import Chain, copy_ledger
    from roles.config import read_genesis
    from roles.lock import DirectoryLock
    from testnet.recompute import recompute

    output = Output(json)
    if not file.is_file():
        raise CommandError(
            "no_file", f"{file} is not there", "name a file of `rolemesh ledger snapshot`", ExitCode.USAGE
        )
    genesis = read_genesis(data)
    with DirectoryLock(data):
        if not trust:
            progress = Progress()
            try:
                _raise_findings(recompute(genesis, {file.name: file}, _show(progress)))
            finally:
                progress.end()

        def put(target: Path) -> tuple[bytes, int, int]:
            # Starts are counted on from the clock: the old count is lost, and peers pass over a node that begins anew.
            told = copy_ledger(file, target, boot=int(time.time()))
            chain = Chain(target, compute_chain_id(genesis))
            try:
                chain.start()
            finally:
                chain.close()
            return told

        chain, first, last = _write_whole(data / DATABASE_NAME, put)
    how = "trusted" if trust else "recomputed from genesis"
    output.say(f"{data / DATABASE_NAME}: blocks {first} to {last} of chain {chain.hex()}, {how}")
    output.give({"file": data / DATABASE_NAME, "chain": chain, "first": first, "height": last, "trusted": trust})


def _write_whole(target: Path, write: "Callable[[Path], tuple[bytes, int, int]]") -> tuple[bytes, int, int]:
    """Have a file written under another name and give it its own once it is whole. Never replaces one."""
    from roles.files import sync_directory

    if target.exists():
        hint = "move it away first: nothing is replaced"
        raise CommandError("file_exists", f"{target} is there already", hint, ExitCode.CONFIG)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        told = write(temporary)
        os.link(temporary, target)
    except FileExistsError as error:
        hint = "move it away first: nothing is replaced"
        raise CommandError("file_exists", f"{target} is there already", hint, ExitCode.CONFIG) from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{temporary}{suffix}").unlink()
    sync_directory(target.absolute().parent)
    return told


def recompute_shown(directory: Path | None, on_block: "OnBlock | None" = None) -> "Recomputation":
    """Recompute the ledgers of a network, the newest unless one is named, or of a node. CommandError if one differs."""
    from testnet.recompute import recompute_directory

    target = directory if directory is not None else open_network(None)[0].parent
    progress = Progress()
    try:
        result = recompute_directory(target, _show(progress, on_block))
    finally:
        progress.end()
    _raise_findings(result)
    return result


def _show(progress: Progress, then: "OnBlock | None" = None) -> "OnBlock":
    def on_block(before: "State", block: "Block", after: "State") -> None:
        progress.show(f"recomputed up to height {block.header.height}")
        if then is not None:
            then(before, block, after)

    return on_block


def _raise_findings(result: "Recomputation") -> None:
    if result.holds:
        return
    height = result.first_bad
    where = f"height {height}" if height is not None else "what lies beside the ledger"
    raise CommandError(
        "invariant_violated",
        f"{where}: {result.findings[0]}",
        "compare with an untouched copy, or fetch the ledger anew from peers",
        ExitCode.INVARIANT_VIOLATED,
        first_height=height,
        findings=result.findings,
    )
