"""`rolemesh explain`: why a request went as it did, offline, from signed statements and a recomputed ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from testnet.explain import Case

ID_LETTERS_MIN = 8


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        explain,
        help_epilogue="Examples:\n\n  rolemesh explain 5f0c1e77 --dir .rolemesh/dev-42\n\n"
        "  rolemesh explain .rolemesh/dev-42/clients/0/receipts/5f0c….receipt --json\n\n"
        "  rolemesh explain 5f0c1e77 --dir .rolemesh/dev-42/nodes/inference-0",
    )


def explain(
    target: str,
    /,
    *,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    json: Json = False,
) -> None:
    """Say why a node was chosen, refused, paid, not paid or slashed for one request. Needs no network, believes nobody.

    The ledger is recomputed from genesis; every signature of what was kept is checked. What is only somebody's word is
    named as not shown.

    Parameters
    ----------
    target
        A request id or claim id in hex, or its first eight letters or more; or a .receipt file.
    directory
        A client's or worker's data directory, or a network's; the newest network under ./.rolemesh unless given.
    """
    from testnet.explain import History, summarise
    from testnet.explain import explain as explain_case
    from testnet.recompute import recompute

    output = Output(json)
    wanted = _read_target(target)
    places = _find_places(directory if directory is not None else _find_home(Path(target)))
    place, case = _find_case(wanted, places)
    output.note(f"recomputing the ledger in {place} from genesis")
    history = History(case)
    from roles.config import read_genesis

    result = recompute(read_genesis(place), {place.name: place / "node.db"}, history.on_block)
    if not result.holds:
        raise CommandError(
            "ledger_does_not_hold",
            f"the ledger in {place} cannot explain anything: {result.findings[0]}",
            f"`rolemesh testnet check {place}` lists all that is wrong with it",
            ExitCode.VERIFICATION_FAILED,
            findings=result.findings,
        )
    findings = list(explain_case(case, result.state, history, result.leaves))
    output.say(f"{'request':>12}  {case.request_id.hex()}")
    for item in findings:
        output.say(f"{item.level:>12}  {'' if item.is_shown else 'not shown: '}{item.text}")
    output.give({"request_id": case.request_id, "directory": str(place), "steps": summarise(findings)})


def _read_target(target: str) -> str:
    """The id that is meant, or its beginning. Raises CommandError."""
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
    if not ID_LETTERS_MIN <= len(text) <= 64 or any(letter not in "0123456789abcdef" for letter in text):
        hint = f"give {ID_LETTERS_MIN} to 64 hex letters as `rolemesh infer` prints them, or a .receipt file"
        raise CommandError("bad_id", f"{target!r} is neither an id nor a file", hint, ExitCode.USAGE)
    return text


def _find_home(target: Path) -> Path:
    """Where to look when nobody says: the directory a receipt lies in, or the newest network."""
    from testnet.network_file import NetworkFileError, find_network

    if target.is_file() and target.resolve().parent.name == "receipts":
        return target.resolve().parent.parent
    try:
        return find_network(None).parent
    except NetworkFileError as error:
        hint = "name a client's, a worker's or a network's directory with --dir"
        raise CommandError("no_network", str(error), hint, ExitCode.UNREACHABLE) from error


def _find_places(directory: Path) -> list[Path]:
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


def _find_case(wanted: str, places: list[Path]) -> "tuple[Path, Case]":
    """The one case whose request or claim has this id, and where it is kept. Raises CommandError."""
    found: dict[bytes, tuple[Path, Case]] = {}
    for place in places:
        for case in _read_cases(place):
            ids = (case.request_id, *case.claim_ids)
            if any(each.hex().startswith(wanted) for each in ids):
                found.setdefault(case.request_id, (place, case))
    if len(found) > 1:
        names = sorted(each.hex() for each in found)
        raise CommandError("many_ids", f"{len(found)} requests begin with {wanted}", "give more letters", ids=names)
    if not found:
        looked = ", ".join(str(place) for place in places[:8])
        raise CommandError(
            "unknown_id",
            f"no request or claim {wanted} is kept in {looked}",
            "look where it was asked: --dir with that client's data directory; old requests are forgotten",
            looked=[str(place) for place in places],
        )
    return next(iter(found.values()))


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
