"""`rolemesh ledger genesis`: a supply divided between the ecosystem, those who run nodes, and others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output, format_role, format_table
from testnet.cli.prove import read_genesis_file

if TYPE_CHECKING:
    from protocol.ledger.genesis import Genesis
    from testnet.allocations import Allocations, Share

EPILOGUE = (
    "Examples:\n\n  rolemesh ledger genesis base.json --to contributors=rm1... --to backers=rm1... --out genesis.json"
    "\n\n  rolemesh ledger genesis .rolemesh/dev-42/testnet.json --allocations ours.json --json"
)


def genesis(
    base: Path,
    /,
    *,
    to: Annotated[list[str] | None, Parameter(negative="")] = None,
    allocations: Path | None = None,
    out: Path = Path("genesis.json"),
    json: Json = False,
) -> None:
    """Write a genesis in which 40 % of the supply are the ecosystem's, most of it over five years, spent by vote alone.

    The shares of those who run nodes, contributors and backers vest as well. Time, name, parameters, nodes, models and
    feeds are those of the base; what its accounts have there says how the nodes' share is divided between them.

    Parameters
    ----------
    base
        A genesis.json or testnet.json.
    to
        NAME=ACCOUNT: whose a share is. May be given often; the shares that ship name contributors and backers.
    allocations
        JSON file with a supply and shares of your own, like testnet/allocations.json.
    out
        File to write; it must not be there yet.
    """
    from protocol.ledger.genesis import compute_chain_id
    from roles.files import write_atomically
    from testnet.allocations import allocate

    output = Output(json)
    if out.exists():
        raise CommandError("file_exists", f"{out} is there already", "name another file with --out", ExitCode.USAGE)
    chosen = _read_allocations(allocations)
    try:
        made = allocate(read_genesis_file(base), chosen, _read_accounts(to or []))
    except ValueError as error:
        hint = "give --to NAME=ACCOUNT for each of them, or other shares with --allocations"
        raise CommandError("bad_allocations", str(error), hint, ExitCode.USAGE) from error
    try:
        write_atomically(out, made.to_json() + "\n")
    except OSError as error:
        hint = "name a file that can be written with --out"
        raise CommandError("cannot_write", f"{out}: {error.strerror}", hint) from error
    rows = [_describe(share, chosen.supply_role) for share in chosen.shares]
    cells = [(row["to"], f"{row['share_bp'] / 100:g} %", format_role(row["grains"]), row["words"]) for row in rows]
    output.say(format_table(("TO", "SHARE", "AMOUNT", "WHEN"), cells))
    chain = compute_chain_id(made).hex()
    output.say(f"{out}: chain {chain}, {len(made.nodes)} nodes, {chosen.supply_role} ROLE in all, for good")
    output.give({"file": out, "chain": chain, "shares": rows, **_count(made)})


def _read_allocations(path: Path | None) -> "Allocations":
    from testnet.allocations import FILE_BYTES_MAX, parse_allocations, read_shipped

    if path is None:
        return read_shipped()
    try:
        with path.open(encoding="utf-8") as file:
            return parse_allocations(file.read(FILE_BYTES_MAX))
    except (OSError, ValueError, RecursionError) as error:
        hint = "write it like testnet/allocations.json"
        raise CommandError("bad_allocations", f"{path}: {error}", hint, ExitCode.USAGE) from error


def _read_accounts(given: list[str]) -> dict[str, bytes]:
    from protocol.errors import MalformedMessage
    from protocol.keys import parse_account

    accounts: dict[str, bytes] = {}
    for text in given:
        name, _, account = text.partition("=")
        try:
            parsed = parse_account(account)
        except MalformedMessage as error:
            hint = "write it like --to backers=rm1…"
            raise CommandError("bad_account", f"{text!r} names no account: {error}", hint, ExitCode.USAGE) from error
        if name in accounts:
            raise CommandError("usage", f"{name!r} is given twice", "give one account for each name", ExitCode.USAGE)
        accounts[name] = parsed
    return accounts


def _describe(share: "Share", supply_role: int) -> dict[str, Any]:
    from testnet.allocations import compute_amount

    words = "from the start"
    if share.parts:
        each = f"{share.parts} parts" if share.parts > 1 else "whole"
        words = f"{each}, first after {share.cliff_days} days, then every {share.part_days} days"
    return {**vars(share), "grains": compute_amount(share, supply_role), "words": words}


def _count(made: "Genesis") -> dict[str, int]:
    from protocol.ledger.genesis import compute_genesis_supply

    ecosystem = made.treasury + sum(entry.amount for entry in made.vesting if not entry.account)
    return {
        "supply_grains": compute_genesis_supply(made),
        "ecosystem_grains": ecosystem,
        "treasury_grains": made.treasury,
    }
