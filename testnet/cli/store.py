"""`rolemesh store`: files and folders in the store of a node, which may be running."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli import lease
from testnet.cli.arguments import Json, Network, parse_duration
from testnet.cli.node import DATA, Data
from testnet.cli.output import CommandError, ExitCode, Output, format_bytes, format_count, format_table
from testnet.cli.pipe import open_standard_input
from testnet.cli.progress import Progress
from testnet.cli.store_fetch import fetched

if TYPE_CHECKING:
    from protocol.cid import Cid
    from roles.store.importing import Imported
    from roles.store.index import Pin
    from roles.store.store import Store

PIPE = Path("-")
EXAMPLE = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
DAMAGED_SHOWN = 20

app = App(
    name="store",
    help="Files and folders by CID: put, get, keep, check. Names are those of IPFS tools (profile unixfs-v1-2025).",
    help_epilogue="Examples:\n\n  rolemesh store put ./photos\n\n"
    "  rolemesh store get bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354 ./back\n\n  rolemesh store ls",
)
app.command(lease.app)
CidText = Annotated[str, Parameter(name="CID", help="A file or folder: 59 letters that begin with bafkrei or bafybei.")]
For = Annotated[str, Parameter(name="--for", help="How long to keep it: 12h, 30d; for ever unless given.")]
Name = Annotated[str, Parameter(name="--name", help="What `store ls` shows; the file's name unless given.")]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh store put model.onnx\n\n  rolemesh store put ./photos --hidden --for 30d\n\n"
    "  tar c notes | rolemesh store put - --name notes.tar --json"
)
def put(
    path: Annotated[Path, Parameter(name="PATH", allow_leading_hyphen=True)],
    /,
    *,
    name: Name = "",
    for_: For = "",
    hidden: Annotated[bool, Parameter(negative="")] = False,
    data: Data = DATA,
    json: Json = False,
) -> None:
    """Store a file, a folder or, with -, standard input, and pin it. When it says the CID, all of it is on disk.

    Parameters
    ----------
    hidden
        Store entries whose names begin with a dot as well. They are left out otherwise, as IPFS tools do.
    """
    from roles.store.importing import import_path, import_stream

    output = Output(json)
    _verify_no_option(path)
    expires_ms = _end_of(for_)
    if path != PIPE and not path.exists() and not path.is_symlink():
        raise CommandError("no_file", f"there is no {path}", "name a file, a folder, or - for a pipe", ExitCode.USAGE)
    begun_s = time.monotonic()
    with open_store(data, is_made=True) as store, explained(data), _shown(_measure(path)) as tell:
        try:
            if path == PIPE:
                done = import_stream(store, open_standard_input(), tell=tell, name=name, expires_ms=expires_ms)
            else:
                done = import_path(store, path, tell=tell, with_hidden=hidden, name=name, expires_ms=expires_ms)
        except KeyboardInterrupt:
            output.note("\nnothing is pinned; the same command within an hour goes on from what is on disk")
            raise
    _tell_put(done, time.monotonic() - begun_s, output)


def _tell_put(done: "Imported", took_s: float, output: Output) -> None:
    size, new = format_bytes(done.root.content_bytes), format_bytes(done.new_bytes)
    if done.hidden:
        output.note(f"{format_count(done.hidden, 'hidden entry')} left out: --hidden stores them as well")
    output.say(str(done.root.cid))
    output.say(f"{format_count(done.files, 'file')}, {size} in {format_count(done.blocks, 'block')}; {new} are new")
    fields = {"files": done.files, "hidden": done.hidden, "blocks": done.blocks, "new_bytes": done.new_bytes}
    sizes = {"content_bytes": done.root.content_bytes, "dag_bytes": done.root.dag_bytes}
    output.give({"cid": str(done.root.cid), **sizes, **fields, "took_ms": round(took_s * 1000)})


@app.command(
    help_epilogue=f"Examples:\n\n  rolemesh store get {EXAMPLE} hello\n\n  rolemesh store get {EXAMPLE} - | less\n\n"
    f"  rolemesh store get {EXAMPLE} hello --network .rolemesh/dev-42/testnet.json\n\n"
    f"  rolemesh store get {EXAMPLE} --from storage-0"
)
def get(
    cid: CidText,
    target: Annotated[Path | None, Parameter(name="TARGET", allow_leading_hyphen=True)] = None,
    /,
    *,
    network: Network = None,
    from_: Annotated[list[str] | None, Parameter(name="--from", negative="")] = None,
    timeout: str = "1h",
    data: Data = DATA,
    json: Json = False,
) -> None:
    """Write a file or folder to TARGET, which must not exist; to standard output with -. Each block is checked.

    With --network or --from, what is not here is fetched first: by the node of --data if it runs, into its store, else
    by a client of its own. Repeated after a failure or Ctrl-C, it goes on from what has come.

    Parameters
    ----------
    target
        Where to; the CID, in this directory, unless given.
    from_
        Whom to ask: the name of a node of the network, or /ip4/HOST/tcp/PORT/p2p/NODE. May be given often; all
        storage nodes unless given.
    timeout
        How long fetching may take.
    """
    output = Output(json)
    wanted = read_wanted(cid)
    where = target if target is not None else Path(cid)
    _verify_no_option(where)
    if where == PIPE and json:
        raise CommandError("usage", "--json and - both want standard output", "name a file", ExitCode.USAGE)
    if where != PIPE and os.path.lexists(where):
        raise CommandError("target_exists", f"{where} exists", "name a path that is free", ExitCode.USAGE)
    begun_s = time.monotonic()
    with ExitStack() as stack:
        if network is not None or from_:
            data = stack.enter_context(fetched(wanted, network, from_ or [], parse_duration(timeout), data, output))
        _write_out(wanted, where, data, begun_s, output)


def _write_out(wanted: "Cid", where: Path, data: Path, begun_s: float, output: Output) -> None:
    from roles.store.exporting import export, export_stream

    with open_store(data) as store, explained(data), _shown(0) as tell:
        if where == PIPE:
            export_stream(store, wanted, sys.stdout.buffer, tell)
            sys.stdout.buffer.flush()
            return
        done = export(store, wanted, where, tell)
    output.say(f"{where}: {format_count(done.files, 'file')}, {format_bytes(done.content_bytes)}, every block checked")
    fields = {"files": done.files, "content_bytes": done.content_bytes}
    output.give({"cid": str(wanted), "target": where, **fields, "took_ms": round((time.monotonic() - begun_s) * 1000)})


@app.command(help_epilogue="Examples:\n\n  rolemesh store ls\n\n  rolemesh store ls --data ./worker --json")
def ls(*, data: Data = DATA, json: Json = False) -> None:
    """List what is kept, how large it is and until when, and how full the store is."""
    output = Output(json)
    with open_store(data) as store, explained(data):
        pins, used, blocks = store.get_pins(), store.index.get_used_bytes(), store.index.count_blocks()
    head = ("CID", "SIZE", "KEPT UNTIL", "NAME")
    output.say(
        format_table(head, [(str(p.cid), format_bytes(p.content_bytes), _show_end(p), _show(p.name)) for p in pins])
    )
    output.say(f"{format_bytes(used)} of {format_bytes(store.bytes_max)} used, in {format_count(blocks, 'block')}")
    totals = {"used_bytes": used, "bytes_max": store.bytes_max, "blocks": blocks}
    output.give({"pins": [_describe(pin) for pin in pins], **totals})


@app.command(help_epilogue=f"Examples:\n\n  rolemesh store pin {EXAMPLE} --for 30d")
def pin(cid: CidText, /, *, name: Name = "", for_: For = "", data: Data = DATA, json: Json = False) -> None:
    """Keep what is in the store already, a part of something else perhaps, or keep it for another time."""
    output = Output(json)
    wanted = read_wanted(cid)
    with open_store(data) as store, explained(data):
        known = {found.cid: found.name for found in store.get_pins()}
        made = store.pin(wanted, name or known.get(wanted, ""), _end_of(for_))
    output.say(f"{cid} is kept until {_show_end(made)}")
    output.give(_describe(made))


@app.command(help_epilogue=f"Examples:\n\n  rolemesh store unpin {EXAMPLE}")
def unpin(cid: CidText, /, *, data: Data = DATA, json: Json = False) -> None:
    """Keep it no longer. Its blocks stay until `store gc`, those that something else needs for longer."""
    output = Output(json)
    wanted = read_wanted(cid)
    with open_store(data) as store, explained(data):
        store.unpin(wanted)
    output.say(f"{cid} is no longer kept; `rolemesh store gc` frees its room")
    output.give({"cid": cid, "state": "unpinned"})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh store verify\n\n"
    "  rolemesh store verify bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354 --json"
)
def verify(cid: Annotated[str, Parameter(name="CID")] = "", /, *, data: Data = DATA, json: Json = False) -> None:
    """Read and hash every block of one CID, or of all that is kept. Exits 5 when one is missing or damaged.

    Damaged blocks are moved to `store/corrupt`; putting the same file again mends them.
    """
    from roles.store.checking import check

    output = Output(json)
    wanted = read_wanted(cid) if cid else None
    progress = Progress()
    with open_store(data) as store, explained(data):
        try:
            found = check(store, wanted, lambda done, total: progress.show(f"{done} of {format_count(total, 'block')}"))
        finally:
            progress.end()
    if found.damaged:
        names = [str(damaged) for damaged in found.damaged[:DAMAGED_SHOWN]]
        what = f"{len(found.damaged)} of {format_count(found.blocks, 'block')} missing or damaged: {names[0]}"
        hint = "put the same files again: what is whole is not written twice"
        details = {"damaged": len(found.damaged), "cids": names, "blocks": found.blocks}
        raise CommandError("damaged", what, hint, ExitCode.VERIFICATION_FAILED, **details)
    output.say(f"{format_count(found.blocks, 'block')}, {format_bytes(found.bytes)}: every one fits its name")
    output.give({"holds": True, "blocks": found.blocks, "bytes": found.bytes})


@app.command(help_epilogue="Examples:\n\n  rolemesh store gc\n\n  rolemesh store gc --data ./worker --json")
def gc(*, data: Data = DATA, json: Json = False) -> None:
    """Remove blocks that nothing keeps: no pin, and no put within the last hour. Safe while others put and read."""
    from roles.store.collecting import collect

    output = Output(json)
    with open_store(data) as store, explained(data):
        done = collect(store)
        used = store.index.get_used_bytes()
    output.say(f"{format_count(done.blocks, 'block')} removed, {format_bytes(done.freed_bytes)} freed")
    if done.strays:
        output.say(f"{format_count(done.strays, 'file')} of puts that were broken off removed")
    fields = {"blocks": done.blocks, "freed_bytes": done.freed_bytes, "strays": done.strays}
    output.give({**fields, "used_bytes": used, "bytes_max": store.bytes_max})


@contextmanager
def open_store(data: Path, is_made: bool = False) -> "Iterator[Store]":
    from roles.config import CONFIG_NAME, NodeConfig, read_config
    from roles.store.store import STORE_NAME
    from roles.store.store import open_store as open_configured

    if not is_made and not (data / STORE_NAME).is_dir():
        hint = "put something with `rolemesh store put PATH`, or name another directory with --data"
        raise CommandError("no_store", f"no store in {data}", hint, ExitCode.CONFIG)
    config = read_config(data) if (data / CONFIG_NAME).is_file() else NodeConfig(data.name, ())
    with explained(data):
        store = open_configured(data, config)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def explained(data: Path) -> Iterator[None]:
    """Every way in which a store says no, for whoever ran the command."""
    import sqlite3

    from protocol.errors import MalformedMessage, MissingBlob
    from roles.blobs import DiskFull, StoreFull
    from roles.store.bucket import BucketFailed, NoBucketLibrary
    from roles.store.errors import Damaged, IndexDamaged, NotKept, NotStorable, PutExpired
    from roles.store.exporting import TargetExists

    again = "`rolemesh store verify` shows what else is; putting the same file again mends it"
    try:
        yield
    except (MissingBlob, Damaged) as error:
        raise CommandError("missing", str(error), again) from error
    except MalformedMessage as error:
        hint = "it was not made by this store; have its owner put it here"
        raise CommandError("not_readable", str(error), hint, ExitCode.VERIFICATION_FAILED) from error
    except NotStorable as error:
        raise CommandError("not_storable", str(error), "move it elsewhere, then put again", ExitCode.USAGE) from error
    except StoreFull as error:
        hint = "`rolemesh store unpin` and `gc` make room; store_bytes_max in node.json is the quota"
        what, fields = f"the store is full: {error}", {"need": error.need, "used": error.used}
        raise CommandError("store_full", what, hint, ExitCode.FAILURE, **fields, bytes_max=error.bytes_max) from error
    except DiskFull as error:
        raise CommandError("disk_full", str(error), "free some disk, then put again: nothing is lost") from error
    except TargetExists as error:
        raise CommandError("target_exists", str(error), "name a path that is free", ExitCode.USAGE) from error
    except NotKept as error:
        raise CommandError("not_pinned", str(error), "`rolemesh store ls` shows what is", ExitCode.USAGE) from error
    except PutExpired as error:
        raise CommandError("put_expired", str(error), "run the same command again") from error
    except IndexDamaged as error:
        hint = f"move {error.path}* away: the next command makes it anew from the blocks and keeps all of them"
        raise CommandError("index_damaged", str(error), hint, ExitCode.CONFIG) from error
    except sqlite3.OperationalError as error:
        hint = "another command may be at work on it for long: try again"
        raise CommandError("index_busy", f"the index in {data} cannot be used: {error}", hint) from error
    except BrokenPipeError:
        raise
    except NoBucketLibrary as error:
        hint = f"or take store_bucket out of {data / 'node.json'}"
        raise CommandError("no_library", str(error), hint, ExitCode.CONFIG) from error
    except BucketFailed as error:
        hint = "see that it is there and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY let you write to it"
        raise CommandError("bucket_failed", str(error), hint, ExitCode.UNREACHABLE) from error
    except OSError as error:
        what = f"{error.filename or data}: {error.strerror or error}"
        raise CommandError("cannot_access", what, "look at its permissions, and whether the disk is sound") from error


@contextmanager
def _shown(total: int) -> Iterator[Callable[[int], None]]:
    progress = Progress()
    of = f" of {format_bytes(total)}" if total else ""
    try:
        yield lambda content_bytes: progress.show(f"{format_bytes(content_bytes)}{of}")
    finally:
        progress.end()


def _verify_no_option(path: Path) -> None:
    """A lone - is taken for a path, so a mistyped option would be too."""
    if str(path).startswith("-") and path != PIPE:
        hint = f"`--help` shows what is possible; write ./{path} for a file of that name"
        raise CommandError("usage", f"unknown option: {path}", hint, ExitCode.USAGE)


def _measure(path: Path) -> int:
    """How many bytes there are about to be read, for the progress alone."""
    if not path.is_dir() or path.is_symlink():
        return path.stat().st_size if path.is_file() else 0
    total = 0
    for folder, _, names in os.walk(path):
        total += sum(found.stat().st_size for name in names if (found := Path(folder, name)).is_file())
    return total


def read_wanted(text: str) -> "Cid":
    from protocol.cid import read_cid
    from protocol.errors import MalformedMessage

    try:
        return read_cid(text)
    except MalformedMessage as error:
        hint = "copy it whole from `rolemesh store ls`; CIDs of version 0 (Qm…) and other hashes are not used here"
        raise CommandError("bad_cid", str(error), hint, ExitCode.USAGE) from error


def _end_of(duration: str) -> int:
    from roles.store.index import FOR_EVER
    from roles.store.store import get_now_ms

    return get_now_ms() + round(parse_duration(duration) * 1000) if duration else FOR_EVER


def _describe(pin: "Pin") -> dict[str, object]:
    from roles.store.index import FOR_EVER

    expires_ms = None if pin.expires_ms == FOR_EVER else pin.expires_ms
    sizes = {"content_bytes": pin.content_bytes, "dag_bytes": pin.dag_bytes}
    return {"cid": str(pin.cid), "name": pin.name, **sizes, "created_ms": pin.created_ms, "expires_ms": expires_ms}


def _show_end(pin: "Pin") -> str:
    from roles.store.index import FOR_EVER

    if pin.expires_ms == FOR_EVER:
        return "for ever"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(pin.expires_ms / 1000))


def _show(name: str) -> str:
    """A name that breaks no line and moves no cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
