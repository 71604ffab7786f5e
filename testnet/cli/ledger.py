"""`rolemesh ledger`: balances and the supply as a node has stored them, and a home for the other commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli import genesis, history, prove, recover, stats, upkeep, wallet
from testnet.cli.arguments import Json, open_network
from testnet.cli.output import CommandError, ExitCode, Output, format_role, format_table

if TYPE_CHECKING:
    from protocol.ledger.state import State

FIELDS = ("free", "bonded", "in_channels")

app = App(
    name="ledger",
    help="The ledger: look at it as a node has stored it, and have a node put transactions on it.",
    help_epilogue="Examples:\n\n  rolemesh ledger balance\n\n  rolemesh ledger transfer rm1... 12.5\n\n"
    "  rolemesh ledger replay",
)
Where = Annotated[
    Path | None,
    Parameter(name="--dir", help="Directory of a network or node; the newest network under ./.rolemesh unless given."),
]

app.command(prove.prove, help_epilogue=prove.EPILOGUE)
app.command(history.history, help_epilogue=history.EPILOGUE)
app.command(stats.stats, help_epilogue=stats.EPILOGUE)
app.command(genesis.genesis, help_epilogue=genesis.EPILOGUE)
wallet.add_to(app)
upkeep.add_to(app)
app.command(recover.app)


@app.command(
    help_epilogue="Examples:\n\n  rolemesh ledger balance\n\n  rolemesh ledger balance inference-0\n\n"
    "  rolemesh ledger balance rm1... --dir .rolemesh/dev-42 --json"
)
def balance(who: str = "", /, *, directory: Where = None, json: Json = False) -> None:
    """Show what accounts hold: free, bonded, in channels.

    Parameters
    ----------
    who
        An account (rm1...) or a node of the network by name; all nodes unless given.
    """
    from protocol.errors import MalformedMessage
    from protocol.keys import format_account, parse_account

    output = Output(json)
    state, names = read_state(directory)
    if who and who not in names and not who.startswith("rm1"):
        raise CommandError("unknown_account", f"no account {who!r}", f"nodes here: {', '.join(names)}", ExitCode.USAGE)
    wanted = {who: names.get(who, who)} if who else names
    try:
        accounts = {name: parse_account(text) for name, text in wanted.items()}
    except MalformedMessage as error:
        hint = "copy the whole account: it has a checksum"
        raise CommandError("bad_account", f"{who} is no account: {error}", hint, ExitCode.USAGE) from error
    rows = []
    for name, account in accounts.items():
        node = state.nodes.get(account)
        locked = sum(item.deposit - item.paid for item in state.channels.values() if item.payer == account)
        fields = {"free": state.get_balance(account), "bonded": node.bond if node else 0, "in_channels": locked}
        rows.append({"name": name, "account": format_account(account), **fields})
    cells = [
        (str(row["name"]), *(format_role(int(str(row[key]))) for key in FIELDS), str(row["account"])) for row in rows
    ]
    output.say(format_table(("WHO", "FREE", "BONDED", "IN CHANNELS", "ACCOUNT"), cells))
    output.say(f"at height {state.height}, as that node has it; `rolemesh testnet check` recomputes it")
    output.give({"height": state.height, "accounts": rows})


@app.command(help_epilogue="Examples:\n\n  rolemesh ledger supply\n\n  rolemesh ledger supply --json")
def supply(*, directory: Where = None, json: Json = False) -> None:
    """Show all grains there are, and where they are."""
    from protocol.ledger.state import compute_supply

    output = Output(json)
    state, _ = read_state(directory)
    parts = {
        "supply_grains": compute_supply(state),
        "genesis_grains": state.supply,
        "treasury_grains": state.treasury,
        "burned_grains": state.burned,
    }
    for name, amount in parts.items():
        output.say(f"{name.removesuffix('_grains'):>10}  {format_role(amount)}  ({amount} grains)")
    output.give({"height": state.height, **parts})


def read_state(directory: Path | None) -> "tuple[State, dict[str, str]]":
    """The newest stored state of a network or node, genesis before the first block; accounts of nodes by name."""
    from protocol.ledger.genesis import build_state
    from roles.chain import open_stored
    from roles.config import read_genesis
    from testnet.recompute import find_chains

    names: dict[str, str] = {}
    if directory is None or (directory / "testnet.json").exists():
        path, network = open_network(directory)
        directory, names = path.parent, {node.name: node.account for node in network.nodes}
    states = []
    for path in find_chains(directory).values():
        with open_stored(path) as (_, stored):
            states.append(build_state(read_genesis(path.parent)) if stored is None else stored.restore())
    if not states:
        hint = "name a network's or node's directory with --dir"
        raise CommandError("no_ledger", f"no ledger is stored in {directory}", hint, ExitCode.CONFIG)
    return max(states, key=lambda state: state.height), names
