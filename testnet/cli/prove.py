"""`rolemesh ledger prove`, and the side of `rolemesh verify` that reads what it wrote."""

import json as json_library
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from testnet.cli.arguments import Json, open_network
from testnet.cli.output import CommandError, ExitCode, Output, format_count, format_role

if TYPE_CHECKING:
    from protocol.ledger.genesis import Genesis
    from protocol.ledger.light import Trusted
    from protocol.proofs.ledger_file import LedgerFile, Shown
    from protocol.proofs.receipt_file import Finding, ReceiptFile

PROOF_SUFFIX = ".proof"
EPILOGUE = (
    "Examples:\n\n  rolemesh ledger prove inference-0\n\n  rolemesh ledger prove rm1... --out balance.proof\n\n"
    "  rolemesh ledger prove answer.receipt --dir .rolemesh/dev-42\n\n"
    "  rolemesh verify inference-0.proof --genesis .rolemesh/dev-42/testnet.json"
)


def prove(
    subject: str,
    /,
    *,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    json: Json = False,
) -> None:
    """Write a file that shows anyone who holds the genesis what the ledger says, without a ledger or a network.

    `rolemesh verify FILE --genesis GENESIS` reads it.

    Parameters
    ----------
    subject
        An account (rm1...) or a node of the network by name: its balance, node record and work, or that it has none.
        Or a .receipt file: that its claim was settled, and not proven wrong since.
    directory
        Directory of a network or node; the newest network under ./.rolemesh unless given.
    out
        File to write; named after the subject unless given.
    """
    from protocol.codec import encode
    from testnet.prove import prove_account, prove_receipt, read_ledger

    output = Output(json)
    names: dict[str, str] = {}
    if directory is None or (directory / "testnet.json").exists():
        path, network = open_network(directory)
        directory, names = path.parent, {node.name: node.account for node in network.nodes}
    is_receipt = subject.endswith(".receipt")
    account = b"" if is_receipt else _parse_subject(subject, names)
    receipt = _read_receipt(Path(subject)) if is_receipt else None
    output.note(f"recomputing the ledger in {directory} from genesis")
    ledger = read_ledger(directory)
    file = prove_account(ledger, account) if receipt is None else prove_receipt(ledger, receipt)
    target = out or Path(f"{Path(subject).stem if is_receipt else subject}{PROOF_SUFFIX}")
    data = encode(file)
    try:
        target.write_bytes(data)
    except OSError as error:
        hint = "name a file that can be written with --out"
        raise CommandError("cannot_write", f"{target}: {error.strerror}", hint) from error
    height = ledger.result.state.height
    output.say(f"{target}: {len(data)} bytes, of height {height}")
    output.give({"file": target, "bytes": len(data), "height": height})


def verify_proof(data: bytes, trusted: "Trusted") -> "tuple[Finding, ...]":
    """Check a ledger file and say what it shows. RemoteError, with the reason, when it does not hold."""
    from protocol.proofs.ledger_file import decode_ledger_file, verify_ledger_file

    file = decode_ledger_file(data)
    return tuple(_describe(file, verify_ledger_file(file, trusted)))


def read_trusted(path: Path) -> "Trusted":
    """What a light client believes that holds this genesis: genesis.json, testnet.json, or a directory of either."""
    from protocol.ledger.light import trust_genesis

    return trust_genesis(read_genesis_file(path))


def read_genesis_file(path: Path) -> "Genesis":
    """The genesis in a genesis.json or testnet.json, or a directory of either. Raises CommandError."""
    from protocol.errors import ProtocolError
    from protocol.ledger.genesis import Genesis
    from testnet.network_file import FILE_NAME

    if path.is_dir():
        path = next((path / name for name in (FILE_NAME, "genesis.json") if (path / name).is_file()), path / FILE_NAME)
    try:
        fields = json_library.loads(path.read_text(encoding="utf-8"))
        return Genesis.from_json(json_library.dumps(fields.get("genesis", fields)))
    except (OSError, ProtocolError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "name a genesis.json or testnet.json, of whose origin you are sure: everything else rests on it"
        raise CommandError("bad_genesis", f"{path} holds no genesis: {error}", hint, ExitCode.CONFIG) from error


def _parse_subject(subject: str, names: dict[str, str]) -> bytes:
    from protocol.errors import MalformedMessage
    from protocol.keys import parse_account

    try:
        return parse_account(names.get(subject, subject))
    except MalformedMessage as error:
        hint = f"name an account (rm1...), a .receipt file, or a node: {', '.join(names) or 'none is known here'}"
        raise CommandError("unknown_account", f"no account {subject!r}: {error}", hint, ExitCode.USAGE) from error


def _read_receipt(path: Path) -> "ReceiptFile":
    from protocol.errors import ProtocolError
    from protocol.proofs.receipt_file import RECEIPT_FILE_BYTES_MAX, decode_receipt_file

    try:
        with path.open("rb") as file:
            return decode_receipt_file(file.read(RECEIPT_FILE_BYTES_MAX + 1))
    except (OSError, ProtocolError) as error:
        hint = "name a .receipt file that `rolemesh infer` has written"
        raise CommandError("bad_receipt", f"{path} cannot be read: {error}", hint, ExitCode.USAGE) from error


def _describe(file: "LedgerFile", shown: "Shown") -> "Iterator[Finding]":
    from protocol.keys import format_account
    from protocol.ledger.feed_records import CandlePage, FeedState, FeedTerms
    from protocol.ledger.job_records import Channel
    from protocol.ledger.records import Account, NodeRecord, WorkCount
    from protocol.proofs.receipt_file import Finding

    changes = f"{len(file.handovers)} changes of validators" if file.handovers else "the validators of genesis"
    restarts = f" and {format_count(len(file.restarts), 'restart')}" if file.restarts else ""
    yield Finding("decided", True, f"a quorum signed block {shown.height}, {changes}{restarts} on the way")
    at = f"at height {shown.state_height}"
    for (table, key), record in shown.entries.items():
        match record:
            case Account(balance, nonce):
                text = f"{format_account(key)} holds {format_role(balance)} {at}, its next nonce is {nonce}"
                yield Finding("balance", True, text)
            case NodeRecord():
                text = f"it runs a node as {', '.join(record.roles)} with a bond of {format_role(record.bond)}"
                yield Finding("node record", True, text)
            case WorkCount(paid, void, wrong, earned):
                text = f"{paid} jobs paid, {void} without pay, {wrong} proven wrong, {format_role(earned)} earned"
                yield Finding("work", True, text)
                quality = f"{format_role(record.burnt)} burnt by its work, {format_role(record.lost)} lost"
                checked = f"{record.agreed} agreed as verifier, {record.minority} dissents in vain"
                yield Finding("quality", True, f"{quality}; {checked}")
            case Channel():
                text = f"{format_role(record.paid)} of {format_role(record.deposit)} in the channel are paid out {at}"
                yield Finding("channel", True, text)
            case FeedTerms():
                text = f"{record.name}: {record.source}, every {record.heartbeat_ms} ms, {record.decimals} decimals"
                yield Finding("feed", True, text)
            case FeedState():
                text = f"{record.value}, the median of {record.observers}; the last report is of round {record.round}"
                yield Finding("value", True, f"{text} {at}")
            case CandlePage():
                text = f"{len(record.candles)} candles, up to period {record.candles[-1].period} of their level {at}"
                yield Finding("history", True, text)
            case None if table in ("candles", "feeds", "feed_terms"):
                yield Finding("no history", True, f"the ledger has nothing there in {table} {at}")
            case None if table == "wrong":
                yield Finding("not wrong", True, f"nobody has proven claim {key.hex()} wrong {at}")
            case None:
                what = f"the ledger has no entry in {table} for {format_account(key)} {at}"
                yield Finding("nothing", True, what)
    for leaf in shown.leaves.values():
        how = f"{format_role(leaf.amount)} for claim {leaf.claim_id.hex()}" if leaf.claim_id else "nothing, as agreed"
        yield Finding("settled", True, f"block {leaf.height} settles voucher {leaf.seq} of its channel: {how}")
