"""`rolemesh explain`: why a request went as it did, offline, from signed statements and a recomputed ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from protocol.ledger.block import Block
    from protocol.ledger.state import State
    from protocol.proofs.receipt_file import Finding
    from testnet.explain import Case
    from testnet.recompute import OnBlock, Recomputation

ID_LETTERS_MIN = 8
CID_PREFIXES = ("bafk", "bafy")  # no id in hex: there is a letter beyond f


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        explain,
        help_epilogue="Examples:\n\n  rolemesh explain 5f0c1e77 --dir .rolemesh/dev-42\n\n"
        "  rolemesh explain .rolemesh/dev-42/clients/0/receipts/5f0c….receipt --json\n\n"
        "  rolemesh explain 5f0c1e77 --dir .rolemesh/dev-42/nodes/inference-0\n\n"
        "  rolemesh explain bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e  (a lease)",
    )


def explain(
    target: str,
    /,
    *,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    json: Json = False,
) -> None:
    """Say why a node was chosen, refused, paid, not paid or slashed for one request. Needs no network, believes nobody.

    Of a lease or a workflow's run it says what the ledger did, block by block. The ledger is recomputed from genesis;
    every signature of what was kept is checked. What is only somebody's word is named as not shown.

    Parameters
    ----------
    target
        The id of a request, claim, lease or run in hex, or its first eight letters or more; the CID of a lease; or a
        .receipt file.
    directory
        A client's or worker's data directory, or a network's; the newest network under ./.rolemesh unless given.
    """
    from testnet.explain import History, summarise
    from testnet.explain import explain as explain_case

    output = Output(json)
    wanted = _read_target(target)
    places = find_places(directory if directory is not None else _find_home(Path(target)))
    found = _find_case(wanted, places)
    if found is None:
        _explain_ledger(wanted, places, output)
        return
    place, case = found
    history = History(case)
    result = _recompute(place, history.on_block, output)
    findings = list(explain_case(case, result.state, history, result.leaves))
    output.say(f"{'request':>12}  {case.request_id.hex()}")
    _say(findings, output)
    output.give({"request_id": case.request_id, "directory": str(place), "steps": summarise(findings)})


def _explain_ledger(wanted: str, places: list[Path], output: Output) -> None:
    """A lease or run, whose whole life the blocks tell. Raises CommandError."""
    from testnet.explain import summarise
    from testnet.explain_ledger import LeaseStories, RunStories

    runs, leases = RunStories(wanted), LeaseStories(wanted)

    def on_block(before: "State", block: "Block", after: "State") -> None:
        runs.on_block(before, block, after)
        leases.on_block(before, block, after)

    place = places[0]
    _recompute(place, on_block, output)
    found = [("run", *story) for story in runs.found.items()] + [("lease", *story) for story in leases.found.items()]
    if len(found) > 1:
        names = sorted(key.hex() for _, key, _ in found)
        raise CommandError("many_ids", f"{len(found)} leases and runs are {wanted}", "give one of their ids", ids=names)
    if not found:
        looked = ", ".join(str(place) for place in places[:8])
        raise CommandError(
            "unknown_id",
            f"no request or claim {wanted} is kept in {looked}, and the ledger has had no such lease or run",
            "look where it was asked: --dir with that client's data directory; old requests are forgotten",
            looked=[str(place) for place in places],
        )
    [(kind, key, findings)] = found
    output.say(f"{kind:>12}  {key.hex()}")
    _say(findings, output)
    output.give({kind: key, "directory": str(place), "steps": summarise(findings)})


def _recompute(place: Path, on_block: "OnBlock", output: Output) -> "Recomputation":
    """The ledger of one data directory. Raises CommandError when it does not hold."""
    from roles.config import read_genesis
    from testnet.recompute import recompute

    output.note(f"recomputing the ledger in {place} from genesis")
    result = recompute(read_genesis(place), {place.name: place / "node.db"}, on_block)
    if not result.holds:
        raise CommandError(
            "ledger_does_not_hold",
            f"the ledger in {place} cannot explain anything: {result.findings[0]}",
            f"`rolemesh testnet check {place}` lists all that is wrong with it",
            ExitCode.VERIFICATION_FAILED,
            findings=result.findings,
        )
    return result


def _say(findings: "list[Finding]", output: Output) -> None:
    for item in findings:
        output.say(f"{item.level:>12}  {'' if item.is_shown else 'not shown: '}{item.text}")


def _read_target(target: str) -> str:
    """The id that is meant, or its beginning. Raises CommandError."""
    from protocol.cid import read_cid
    from protocol.errors import ProtocolError
    from protocol.jobs import compute_request_id
    from protocol.proofs.receipt_file import RECEIPT_FILE_BYTES_MAX, decode_receipt_file

    path = Path(target)
    if path.is_file():
        with path.open("rb") as file:
            data = file.read(RECEIPT_FILE_BYTES_MAX + 1)
        try:
            return compute_request_id(decode_receipt_file(data).request).hex()
        except ProtocolError as error:
            hint = "name a .receipt file as a client keeps it, or the request's id"
            raise CommandError("no_receipt", f"{path} is no receipt: {error}", hint, ExitCode.USAGE) from error
    text = target.lower()
    if text.startswith(CID_PREFIXES):
        try:
            return str(read_cid(text))
        except ProtocolError as error:
            hint = "copy the whole CID; `rolemesh store lease ls` shows those there are"
            raise CommandError("bad_id", f"{target!r} is no CID: {error}", hint, ExitCode.USAGE) from error
    return read_id(target, "an id nor a file", ", or a .receipt file")


def read_id(text: str, what: str = "an id nor its beginning", others: str = "") -> str:
    """An id in hex, or its beginning. Raises CommandError, which says that it is neither that nor what else may be."""
    letters = text.lower()
    if not ID_LETTERS_MIN <= len(letters) <= 64 or any(letter not in "0123456789abcdef" for letter in letters):
        hint = f"give {ID_LETTERS_MIN} to 64 hex letters as `rolemesh infer` prints them{others}"
        raise CommandError("bad_id", f"{text!r} is neither {what}", hint, ExitCode.USAGE)
    return letters


def _find_home(target: Path) -> Path:
    """Where to look when nobody says: the directory a receipt lies in, or the newest network."""
    if target.is_file() and target.resolve().parent.name == "receipts":
        return target.resolve().parent.parent
    return find_newest()


def find_newest() -> Path:
    """The directory of the newest network. Raises CommandError."""
    from testnet.network_file import NetworkFileError, find_network

    try:
        return find_network(None).parent
    except NetworkFileError as error:
        hint = "name a client's, a worker's or a network's directory with --dir"
        raise CommandError("no_network", str(error), hint, ExitCode.UNREACHABLE) from error


def find_places(directory: Path) -> list[Path]:
    """Data directories below, clients first: they know most. Raises CommandError."""
    below = [path for pattern in ("clients/*", "nodes/client-*", "nodes/*") for path in directory.glob(pattern)]
    places = [path for path in dict.fromkeys((directory, *sorted_in_order(below))) if (path / "node.db").is_file()]
    if not places:
        hint = "name the data directory of a client or worker, or the directory of a network"
        raise CommandError("no_directory", f"{directory} holds no node's database", hint, ExitCode.USAGE)
    return places


def sorted_in_order(paths: list[Path]) -> list[Path]:
    """By kind as they come, by name within a kind."""
    kinds = list(dict.fromkeys(path.parent for path in paths))
    return sorted(paths, key=lambda path: (kinds.index(path.parent), not path.name.startswith("client"), path.name))


def _find_case(wanted: str, places: list[Path]) -> "tuple[Path, Case] | None":
    """The one case whose request or claim has this id, and where it is kept; None if there is none. CommandError."""
    found: dict[bytes, tuple[Path, Case]] = {}
    for place in places:
        for case in _read_cases(place):
            ids = (case.request_id, *case.claim_ids)
            if any(each.hex().startswith(wanted) for each in ids):
                found.setdefault(case.request_id, (place, case))
    if len(found) > 1:
        names = sorted(each.hex() for each in found)
        raise CommandError("many_ids", f"{len(found)} requests begin with {wanted}", "give more letters", ids=names)
    return next(iter(found.values()), None)


def _read_cases(place: Path) -> "Iterator[Case]":
    from protocol.codec import decode
    from roles.chain import read_kept
    from roles.request_log import RequestRecord
    from roles.workbook import JournalEntry
    from testnet.explain import Case, Try

    for data in read_kept(place / "node.db", "client/requests").values():
        record = decode(RequestRecord, data)
        tries = tuple(
            Try(
                item.worker,
                item.voucher,
                next(iter(item.receipts), None),
                item.attestations,
                item.refusals,
                item.note,
                bool(item.is_called_off),
            )
            for item in record.attempts
        )
        ending = f"attempt {record.winner} was released" if record.winner else f"{record.code}: {record.reason}"
        yield Case(record.request, tries, record.order, ending if record.ended_ms else "it is still under way")
    for data in read_kept(place / "node.db", "inference/jobs").values():
        entry = decode(JournalEntry, data)
        receipt = next(iter(entry.receipts), None)
        worker = receipt.claim.worker if receipt is not None else b""
        yield Case(entry.item.request, (Try(worker, entry.item.voucher, receipt, entry.attestations),))
