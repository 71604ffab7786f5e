"""`rolemesh ledger transfer|stake|delegate|…`: have a running node put a transaction of its account on the ledger."""

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, parse_amount, parse_duration
from testnet.cli.node import DATA
from testnet.cli.output import CommandError, ExitCode, Output, format_role
from testnet.cli.progress import Progress
from testnet.network_file import FILE_NAME, NetworkFileError, find_network, read_network_file

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_S = 0.05
TAKEN_S_MAX = 5.0  # for the node to have turned once
STORED_S_MAX = 10.0  # for what is final to be on its disk
HINTS = {
    "InsufficientBalance": "`rolemesh ledger balance` shows what there is; every transaction pays a fee too",
    "InsufficientBond": "`rolemesh ledger balance` shows what is bonded",
    "UnknownNode": "only an account with a node stakes: `rolemesh node run` registers it",
    "InvalidNode": "see the reason",
    "InvalidProposal": "`rolemesh gov params` shows what a vote can change, and how far",
    "VotingOver": "`rolemesh gov ls` shows what is voted on",
    "AlreadyVoted": "a vote stays as it is cast; `rolemesh gov show` has the tally",
    "InvalidApp": "see the reason; `rolemesh app register --help` shows how a tier is written",
    "UnknownApp": "`rolemesh app ls` shows the apps",
    "AppRetired": "passes that run are good until their end; `rolemesh app ls` shows the other apps",
    "NotYourApp": "only its owner changes an app: take another name, or pay as the owner with --from",
    "InvalidPurchase": "`rolemesh app show APP` has the tiers as they are now",
    "StakeTooLow": "stake or delegate more: `rolemesh ledger delegate VALIDATOR AMOUNT`",
}

Amount = Annotated[str, Parameter(name="AMOUNT", help="In ROLE, with up to nine decimals: 12 or 0.5.")]
From = Annotated[
    str,
    Parameter(
        name="--from",
        help="Running node whose account pays: its data directory, or its name in the newest network; "
        f"{DATA}, or the network's first client, unless given.",
    ),
]
Validator = Annotated[
    str, Parameter(name="VALIDATOR", help="Account of a validator (rm1...), or its name in the payer's test network.")
]
NoWait = Annotated[bool, Parameter(name="--no-wait", negative="", help="Do not wait until it is final.")]
Timeout = Annotated[str, Parameter(name="--timeout", help="How long to wait: 30s, 2m.")]


def add_to(app: App) -> None:
    """Add the commands to the ledger's."""
    app.command(
        transfer,
        help_epilogue="Examples:\n\n  rolemesh ledger transfer rm1... 12.5\n\n"
        "  rolemesh ledger transfer inference-0 0.000000001 --from client-0 --json\n\n"
        "  rolemesh ledger transfer rm1... 3 --no-wait",
    )
    app.command(
        stake,
        help_epilogue="Examples:\n\n  rolemesh ledger stake 100\n\n"
        "  rolemesh ledger stake 250 --from inference-0 --json",
    )
    app.command(
        unstake,
        help_epilogue="Examples:\n\n  rolemesh ledger unstake 50\n\n"
        "  rolemesh ledger unstake 12.5 --from ./worker --json",
    )
    app.command(
        delegate,
        help_epilogue="Examples:\n\n  rolemesh ledger delegate validator-0 25\n\n"
        "  rolemesh ledger delegate rm1... 100 --from ./wallet --json",
    )
    app.command(
        undelegate,
        help_epilogue="Examples:\n\n  rolemesh ledger undelegate validator-0 25\n\n"
        "  rolemesh ledger undelegate rm1... 10.5 --from ./wallet --json",
    )


def delegate(
    validator: Validator,
    amount: Amount,
    /,
    *,
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Put stake behind another account's validator, or more of it. It counts, earns and can be slashed from the next
    epoch on.
    """
    from protocol.ledger.transactions import Delegate

    grains = parse_amount(amount)
    account = find_account(validator, find_payer(payer))
    _order_for(Output(json), payer, Delegate(account, grains), account, "delegated to", no_wait, timeout)


def undelegate(
    validator: Validator,
    amount: Amount,
    /,
    *,
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Take stake back from a validator. It is paid out after the unbonding time, and can be slashed until then."""
    from protocol.ledger.transactions import Undelegate

    grains = parse_amount(amount)
    account = find_account(validator, find_payer(payer))
    _order_for(Output(json), payer, Undelegate(account, grains), account, "on its way back from", no_wait, timeout)


def transfer(
    to: Annotated[str, Parameter(name="TO")],
    amount: Amount,
    /,
    *,
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Send ROLE to an account, and wait until that is final.

    Parameters
    ----------
    to
        An account (rm1...), or a node of the payer's test network by name.
    """
    from protocol.keys import format_account
    from protocol.ledger.transactions import Transfer

    grains = parse_amount(amount)
    account = find_account(to, find_payer(payer))
    fields = {"to": format_account(account), "amount_grains": grains}
    words = f"{format_role(grains)} to {format_account(account)}"
    _order(Output(json), payer, Transfer(account, grains), words, fields, no_wait, timeout)


def stake(
    amount: Amount, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """Add to the bond of a node, out of its own account."""
    from protocol.ledger.transactions import Stake

    grains = parse_amount(amount)
    fields = {"amount_grains": grains}
    _order(Output(json), payer, Stake(grains), f"{format_role(grains)} staked", fields, no_wait, timeout)


def unstake(
    amount: Amount, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """Take from the bond of a node. It is paid out when the unbonding time is over, and can be slashed until then."""
    from protocol.ledger.transactions import Unstake

    grains = parse_amount(amount)
    fields = {"amount_grains": grains}
    words = f"{format_role(grains)} unbonding, paid out when the unbonding time is over"
    _order(Output(json), payer, Unstake(grains), words, fields, no_wait, timeout)


def find_payer(payer: str) -> Path:
    """The data directory of a node by path or name. Raises CommandError."""
    if payer and (Path(payer) / "node.json").is_file():
        return Path(payer)
    if not payer and (DATA / "node.json").is_file():
        return DATA
    try:
        path = find_network(None)
        network = read_network_file(path)
    except NetworkFileError as error:
        what = f"no node {payer!r}" if payer else f"no node in {DATA}"
        hint = "name a node's data directory with --from, or start a network: `rolemesh testnet up`"
        raise CommandError("no_node", f"{what}, and {error}", hint, ExitCode.CONFIG) from error
    wanted = [node for node in network.nodes if node.name == payer or (not payer and node.role == "client")]
    if not wanted:
        names = ", ".join(node.name for node in network.nodes)
        what = f"no node {payer!r}" if payer else "no client"
        raise CommandError("no_node", f"{what} in {network.name}", f"name one with --from: {names}", ExitCode.USAGE)
    return path.parent / wanted[0].directory


def _order_for(output: Output, payer: str, body: Any, account: bytes, how: str, no_wait: bool, timeout: str) -> None:
    from protocol.keys import format_account

    name = format_account(account)
    fields = {"validator": name, "amount_grains": body.amount}
    _order(output, payer, body, f"{format_role(body.amount)} {how} {name}", fields, no_wait, timeout)


def find_home(payer: Path) -> Path:
    """The network file of the test network a node belongs to, or else the newest. Raises NetworkFileError."""
    home = payer.absolute().parent.parent
    return find_network(home if (home / FILE_NAME).is_file() else None)


def _order(
    output: Output, payer: str, body: Any, words: str, fields: "Mapping[str, Any]", no_wait: bool, timeout: str
) -> None:
    """Hand a transaction to the payer's node, see that it has it, and wait until it is final."""
    told = order_final(find_payer(payer), body, timeout, no_wait)
    height, took_ms = told["height"], told["took_ms"]
    output.say(f"{words}: {'on its way' if height is None else f'final at height {height} after {took_ms} ms'}")
    output.give({**told, **fields})


def order_final(directory: Path, body: Any, timeout: str, no_wait: bool = False) -> dict[str, Any]:
    """Hand a transaction to the node of a directory and wait until it is final and stored; what to tell.

    Who looks at the node's ledger next finds what was done. Raises CommandError.
    """
    from protocol.codec import encode
    from protocol.errors import LocalError
    from protocol.ledger.transactions import get_transaction_kind

    timeout_s = parse_duration(timeout)
    token = secrets.token_hex(16)
    kind = get_transaction_kind(type(body))
    try:
        encoded = encode(body)
    except LocalError as error:  # a number below nought or above what its field holds, a text that is too long
        what = f"no transaction can say this: {error}"
        raise CommandError("bad_value", what, "give another value", ExitCode.USAGE) from error
    request = {"command": "ledger.submit", "token": token, "kind": kind, "body": encoded.hex()}
    begun_s = time.monotonic()
    state = ask_running(directory, request)
    state = _wait(directory, token, state, begun_s + TAKEN_S_MAX, is_taken=True)
    if not no_wait:
        state = _wait(directory, token, state, begun_s + timeout_s, is_taken=False)
    if state.get("code"):
        hint = HINTS.get(state["code"], "`rolemesh ledger history` shows what is on the ledger")
        numbers = state.get("numbers") or {}
        raise CommandError(state["code"], f"refused: {state['reason']}", hint, token=token, **numbers)
    if state.get("height") is None and not no_wait:
        raise CommandError(
            "timeout",
            f"not final after {timeout_s:g} s; the node goes on trying",
            "`rolemesh ledger history` shows whether it is on the ledger by now; do not send it again before",
            ExitCode.TIMEOUT,
            token=token,
        )
    took_ms = round((time.monotonic() - begun_s) * 1_000)
    height: int | None = state.get("height")
    if height is not None:
        _wait_stored(directory, height, token)
    result = {"state": "submitted" if height is None else "final", "height": height, "took_ms": took_ms}
    return {**result, "from": state["account"], "token": token}


def _wait(directory: Path, token: str, state: dict[str, Any], deadline_s: float, is_taken: bool) -> dict[str, Any]:
    """Ask again until the order is over, or just known to the node, or the deadline has come."""
    progress = Progress()
    while time.monotonic() < deadline_s:
        if state.get("code") or state.get("height") is not None or (is_taken and state["is_known"]):
            break
        what = "waiting for a block" if state["is_synced"] else "the node is catching up with the ledger"
        progress.show(f"{what}, height {state['ledger_height']}")
        time.sleep(POLL_S)
        state = ask_running(directory, {"command": "ledger.order", "token": token})
    progress.end()
    return state


def _wait_stored(directory: Path, height: int, token: str) -> None:
    """Until the node has a block on its disk that it knows to be final. Raises CommandError after STORED_S_MAX."""
    from roles.chain import DATABASE_NAME, read_height

    deadline_s = time.monotonic() + STORED_S_MAX
    while read_height(directory / DATABASE_NAME) < height:
        if time.monotonic() >= deadline_s:
            what = f"final, but the node has not stored block {height} after {STORED_S_MAX:g} s"
            hint = "`rolemesh ledger history` shows it when it has; do not send it again"
            raise CommandError("timeout", what, hint, ExitCode.TIMEOUT, token=token)
        time.sleep(POLL_S)


def ask_running(directory: Path, request: dict[str, Any]) -> dict[str, Any]:
    from roles.control import NodeUnreachable, RequestRefused, ask_node

    try:
        return ask_node(directory, request)
    except NodeUnreachable as error:
        raise CommandError("not_running", error.message, error.hint, ExitCode.UNREACHABLE) from error
    except RequestRefused as error:
        raise CommandError("refused", error.message, error.hint) from error


def find_account(text: str, payer: Path) -> bytes:
    """An account as written, or that of a node of the payer's test network by name. Raises CommandError."""
    from protocol.errors import MalformedMessage
    from protocol.keys import parse_account

    names: dict[str, str] = {}
    if not text.startswith("rm1"):
        try:
            names = {node.name: node.account for node in read_network_file(find_home(payer)).nodes}
        except NetworkFileError:
            names = {}
    try:
        return parse_account(names.get(text, text))
    except MalformedMessage as error:
        hint = f"copy the whole account, it has a checksum; or name a node: {', '.join(names) or 'none is known here'}"
        raise CommandError("bad_account", f"{text!r} is no account: {error}", hint, ExitCode.USAGE) from error
