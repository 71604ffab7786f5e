"""`rolemesh receipt`: take a receipt that a client keeps in its database out into a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.explain import find_newest, find_places, read_id
from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from roles.client import Answer

RECEIPTS_NAME = "receipts"  # in a client's directory: files for people


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        receipt,
        help_epilogue="Examples:\n\n  rolemesh receipt 5f0c1e77 --dir .rolemesh/dev-42\n\n"
        "  rolemesh receipt 5f0c1e77 --dir .rolemesh/dev-42/nodes/client-0 --out answer.receipt --json",
    )


def receipt(
    request: str,
    /,
    *,
    directory: Annotated[Path | None, Parameter(name="--dir")] = None,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    json: Json = False,
) -> None:
    """Write the receipt of a request into a file, for `rolemesh verify` or for somebody else. Needs no network.

    Parameters
    ----------
    request
        The id of a request in hex, or its first eight letters or more.
    directory
        A client's data directory, or a network's; the newest network under ./.rolemesh unless given.
    out
        The file, which must not exist; the request's id with `.receipt` behind it, here, unless given.
    """
    from roles.chain import DATABASE_NAME, RECEIPT_BUCKET, read_kept

    output = Output(json)
    wanted = read_id(request)
    places = find_places(directory if directory is not None else find_newest())
    found: dict[bytes, tuple[Path, bytes]] = {}
    for place in places:
        kept = read_kept(place / DATABASE_NAME, RECEIPT_BUCKET, begins=wanted)
        found |= {key: (place, data) for key, data in kept.items()}
    if len(found) != 1:
        raise _refuse(wanted, sorted(key.hex() for key in found), places)
    [(key, (place, data))] = found.items()
    target = out or Path(f"{key.hex()}.receipt")
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError as error:
        hint = "name another file with --out, or move it away"
        raise CommandError("exists", f"{target} is there already", hint, ExitCode.USAGE) from error
    except OSError as error:
        hint = "name a file that can be written with --out"
        message = f"{target} cannot be written: {error.strerror}"
        raise CommandError("cannot_write", message, hint, ExitCode.USAGE) from error
    output.say(f"{'receipt':>12}  {target}")
    output.say(f"{'check it':>12}  rolemesh verify {target}")
    output.give({"request_id": key, "directory": str(place), "receipt": str(target), "bytes": len(data)})


def keep_receipt(directory: Path, answer: "Answer") -> Path:
    """Put an answer's receipt into its client's directory as a file, for the person who has asked. CommandError."""
    from roles.files import write_atomically

    path = directory / RECEIPTS_NAME / f"{answer.request_id.hex()}.receipt"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, answer.receipt)
    except OSError as error:
        message = f"the request was answered, but its receipt cannot be written to {path}: {error.strerror}"
        hint = f"answer and receipt are kept: `rolemesh receipt {answer.request_id.hex()} --dir {directory} --out FILE`"
        raise CommandError("cannot_write", message, hint, request_id=answer.request_id) from error
    return path


def _refuse(wanted: str, ids: list[str], places: list[Path]) -> CommandError:
    if ids:
        return CommandError("many_ids", f"{len(ids)} requests begin with {wanted}", "give more letters", ids=ids)
    looked = ", ".join(str(place) for place in places[:8])
    return CommandError(
        "unknown_id",
        f"no receipt of a request {wanted} is kept in {looked}",
        "look where it was asked: --dir with that client's data directory",
        looked=[str(place) for place in places],
    )
