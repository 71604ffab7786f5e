"""`rolemesh gov`: what the holders of stake decide: propose, vote, and see what came of it."""

import json as json_library
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from testnet.cli import payments
from testnet.cli.arguments import Json
from testnet.cli.gov_motion import describe_enclave, describe_motion, read_motion
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_count, format_role, format_table, format_time
from testnet.cli.wallet import From, NoWait, Timeout, find_payer, order_final

if TYPE_CHECKING:
    from protocol.ledger.governance_records import Proposal
    from protocol.ledger.state import State

ID_LETTERS_MIN = 8
SHOWN_LETTERS = 16
CHOICES = ("yes", "no", "abstain", "veto")

app = App(
    name="gov",
    help="What the holders of stake decide: parameters, the treasury, trusted enclaves, feeds.",
    help_epilogue='Examples:\n\n  rolemesh gov propose "cheaper blocks" --set base_fee_min=50000\n\n'
    "  rolemesh gov vote 5f0c1e77 yes --from validator-0\n\n  rolemesh gov ls\n\n  rolemesh gov show 5f0c1e77",
)
app.command(payments.payments, help_epilogue=payments.EPILOGUE)
Which = Annotated[str, Parameter(name="PROPOSAL", help="A proposal's id in hex, or its first eight letters or more.")]


@app.command(
    help_epilogue='Examples:\n\n  rolemesh gov propose "cheaper blocks" --set base_fee_min=50000\n\n'
    '  rolemesh gov propose "a year of docs" --grant 1200 --to rm1... --parts 12 --every 30d\n\n'
    '  rolemesh gov propose "image 7" --trust measurements.json --json\n\n'
    '  rolemesh gov propose "weather" --feed rain.json'
)
def propose(
    title: Annotated[str, Parameter(name="TITLE")],
    /,
    *,
    change: Annotated[str, Parameter(name="--set")] = "",
    grant: str = "",
    to: str = "",
    parts: int = 1,
    every: str = "",
    trust: Path | None = None,
    distrust: Path | None = None,
    feed: Path | None = None,
    end_feed: str = "",
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Put one thing to the vote, for a deposit that comes back unless it is vetoed or too few vote.

    Parameters
    ----------
    title
        What it is about, in one line.
    change
        A parameter's new value, as NAME=VALUE: `rolemesh gov params` shows which, and how far.
    grant
        ROLE out of the treasury.
    to
        Who gets them: an account (rm1...), or a node of the payer's test network by name.
    parts
        In how many equal parts; the first comes when the vote is in force.
    every
        Time from one part to the next: 1h, 30d.
    trust
        JSON file with the PCR0, PCR1 and PCR2 of an enclave to be trusted.
    distrust
        Of one to be trusted no more.
    feed
        JSON file with the terms of a feed that is to be nobody's.
    end_feed
        Name of a feed to end.
    """
    from protocol.ledger.governance import Propose

    output = Output(json)
    directory = find_payer(payer)
    files = {"--trust": trust, "--distrust": distrust, "--feed": feed}
    motion = read_motion(directory, change, grant, to, parts, every, files, end_feed)
    words, fields = describe_motion(motion)
    told = order_final(directory, Propose(title, motion), timeout, no_wait)
    state, _ = read_state(directory)
    key = _find_own(state, directory, told["height"])
    when = "on its way" if told["height"] is None else f"final at height {told['height']} after {told['took_ms']} ms"
    output.say(f"proposal {key or '(its id comes with its block)'}: {when}")
    output.say(f"{words}; deposit {format_role(state.params.proposal_deposit)}")
    until_ms = state.proposals[bytes.fromhex(key)].due_ms if key else None
    if until_ms is not None:
        output.say(f"votes count until {format_time(until_ms)}: `rolemesh gov vote {key[:SHOWN_LETTERS]} yes --from …`")
    deposit = state.params.proposal_deposit
    output.give({**told, "proposal": key, "title": title, **fields, "deposit_grains": deposit, "until_ms": until_ms})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh gov vote 5f0c1e77 yes --from validator-0\n\n"
    "  rolemesh gov vote 5f0c1e77 veto --from ./wallet --json"
)
def vote(
    proposal: Which,
    choice: Literal["yes", "no", "abstain", "veto"],
    /,
    *,
    payer: From = "",
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Vote with all stake that the account had when the proposal was made: bonded, delegated, and delegated to it.

    A delegator's vote goes before its validator's. A vote stays as it is cast. The ledger is recomputed up to the
    proposal for the proof of the stake.

    Parameters
    ----------
    choice
        yes, no, abstain (which helps the quorum alone), or veto (a no that can cost the proposer its deposit).
    """
    from protocol.ledger.governance_records import Choice
    from protocol.ledger.governance_votes import build_votes
    from roles.keystore import get_key_path, read_public
    from testnet.snapshot import read_snapshot

    output = Output(json)
    directory = find_payer(payer)
    state, _ = read_state(directory)
    key, found = _find(state, proposal)
    output.note(f"recomputing the ledger in {directory} up to height {found.height}")
    snapshot = read_snapshot(directory, found.height, found.root)
    account = read_public(get_key_path(directory, "account"))
    votes = build_votes(snapshot, account, key, Choice[choice.upper()])
    if not votes:
        hint = "only what was bonded or delegated then votes; `rolemesh ledger balance` shows what is bonded now"
        raise CommandError("no_stake", f"the account had no stake at height {found.height}", hint)
    for body in votes:
        told = order_final(directory, body, timeout)
    state, _ = read_state(directory)
    row = describe(key, state.proposals[key], state)
    output.say(f"{choice} on {key.hex()[:SHOWN_LETTERS]} ({found.title}): final at height {told['height']}")
    output.say(_format_tally(row))
    output.give({**told, "choice": choice, **row})


@app.command(help_epilogue="Examples:\n\n  rolemesh gov ls\n\n  rolemesh gov ls --dir .rolemesh/dev-42 --json")
def ls(*, directory: Where = None, json: Json = False) -> None:
    """List proposals, those that are open first, and what the treasury has."""
    output = Output(json)
    state, _ = read_state(directory)
    held = sorted(state.proposals.items(), key=lambda item: (not item[1].is_open, -item[1].due_ms))
    rows = [describe(key, proposal, state) for key, proposal in held]
    cells = [
        (
            row["proposal"][:SHOWN_LETTERS],
            row["title"],
            row["state"],
            *(_format_share(row["tally"][name], row["stake_grains"]) for name in CHOICES),
            format_time(row["due_ms"]),
        )
        for row in rows
    ]
    output.say(format_table(("PROPOSAL", "TITLE", "STATE", "YES", "NO", "ABSTAIN", "VETO", "UNTIL (UTC)"), cells))
    output.say(f"the treasury has {format_role(state.treasury)}, at height {state.height}, as that node has it")
    output.give({"height": state.height, "treasury_grains": state.treasury, "proposals": rows})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh gov show 5f0c1e77\n\n  rolemesh gov show 5f0c1e77 --dir ./worker --json"
)
def show(proposal: Which, /, *, directory: Where = None, json: Json = False) -> None:
    """Show one proposal: what it moves, who asked, how the vote stands or went, what was paid on it."""
    output = Output(json)
    state, _ = read_state(directory)
    key, found = _find(state, proposal)
    row = describe(key, found, state)
    params = state.params
    quorum = f"{params.proposal_quorum_bp / 100:g} % of {format_role(found.stake)} must vote"
    lines = {
        "proposal": row["proposal"],
        "title": found.title,
        "moves": row["words"],
        "by": row["proposer"],
        "deposit": format_role(found.deposit) if found.deposit else "none held any more",
        "state": row["state"] + (f": {found.reason}" if found.reason else ""),
        "until": format_time(found.due_ms),
        "stake": f"as of height {found.height}, state root {found.root.hex()}",
        "tally": _format_tally(row),
        "rules": f"{quorum}, more than {params.proposal_threshold_bp / 100:g} % of them for it, "
        f"veto at {params.proposal_veto_bp / 100:g} %",
    }
    if "paid_grains" in row:
        lines["paid"] = f"{format_role(row['paid_grains'])} out of the treasury so far"
    for name, text in lines.items():
        output.say(f"{name:>10}  {text}")
    output.give({"height": state.height, **row})


@app.command(help_epilogue="Examples:\n\n  rolemesh gov params\n\n  rolemesh gov params --json")
def params(*, directory: Where = None, json: Json = False) -> None:
    """List the parameters that a vote can change: what they are, and how far they can go."""
    from protocol.ledger.governance_params import RANGES

    output = Output(json)
    state, _ = read_state(directory)
    rows = [
        {"parameter": name, "value": getattr(state.params, name), "least": allowed.least, "most": allowed.most}
        for name, allowed in RANGES.items()
    ]
    output.say(format_table(("PARAMETER", "VALUE", "LEAST", "MOST"), [tuple(map(str, row.values())) for row in rows]))
    output.say("shares (bp) are hundredths of a percent, times (ms) milliseconds, the others grains")
    output.give({"height": state.height, "parameters": rows})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh gov enclaves\n\n  rolemesh gov enclaves --out listed.json\n\n"
    "  rolemesh verify answer.receipt --measurements listed.json"
)
def enclaves(*, out: Path | None = None, directory: Where = None, json: Json = False) -> None:
    """List the enclaves that votes have found to be trusted.

    Parameters
    ----------
    out
        File to write them to as well, for `--measurements` of `rolemesh verify`.
    """
    output = Output(json)
    state, _ = read_state(directory)
    rows = [describe_enclave(enclave) for _, enclave in sorted(state.enclaves.items())]
    if out is not None:
        try:
            out.write_text(json_library.dumps(rows, indent=2), encoding="utf-8")
        except OSError as error:
            hint = "name a file that can be written with --out"
            raise CommandError("cannot_write", f"{out}: {error.strerror}", hint) from error
    for row in rows:
        output.say(row["PCR0"])
    output.say(f"{format_count(len(rows), 'enclave')} trusted by vote, at height {state.height}")
    output.give({"height": state.height, "enclaves": rows, "file": out})


def describe(key: bytes, proposal: "Proposal", state: "State") -> dict[str, Any]:
    """A proposal for programs, with what it moves in `words` too."""
    from protocol.keys import format_account
    from protocol.ledger.governance import compute_outcome
    from protocol.ledger.governance_records import ProposalPhase

    words, fields = describe_motion(proposal.motion, state)
    is_voted_on = proposal.phase == ProposalPhase.VOTING
    row = {
        "proposal": key.hex(),
        "title": proposal.title,
        "words": words,
        **fields,
        "proposer": format_account(proposal.proposer),
        "state": str(proposal.phase),
        "reason": proposal.reason,
        "due_ms": proposal.due_ms,
        "deposit_grains": proposal.deposit,
        "snapshot_height": proposal.height,
        "state_root": proposal.root.hex(),
        "stake_grains": proposal.stake,
        "tally": {name: getattr(proposal.tally, name) for name in CHOICES},
        "would_be": str(compute_outcome(proposal.tally, proposal.stake, state.params)) if is_voted_on else None,
    }
    if proposal.motion.grant and proposal.phase == ProposalPhase.IN_FORCE:
        flowing = state.vesting.get(key)
        row["paid_grains"] = flowing.released if flowing is not None else proposal.motion.grant[0].amount
    return row


def _find(state: "State", wanted: str) -> "tuple[bytes, Proposal]":
    """A proposal by the beginning of its id. Raises CommandError."""
    found = [(key, item) for key, item in state.proposals.items() if key.hex().startswith(wanted.lower())]
    if len(wanted) < ID_LETTERS_MIN or len(found) != 1:
        hint = f"`rolemesh gov ls` shows them; give at least {ID_LETTERS_MIN} letters of an id"
        raise CommandError("no_proposal", f"{len(found)} proposals begin with {wanted!r}", hint, ExitCode.USAGE)
    return found[0]


def _find_own(state: "State", directory: Path, height: int | None) -> str:
    """The id of what a node's account has proposed in a block; empty while that is not known."""
    from roles.keystore import get_key_path, read_public

    account = read_public(get_key_path(directory, "account"))
    own = (key for key, item in state.proposals.items() if (item.proposer, item.height + 1) == (account, height))
    return next(own, b"").hex()


def _format_tally(row: dict[str, Any]) -> str:
    stake = row["stake_grains"]
    shares = ", ".join(f"{_format_share(row['tally'][name], stake)} {name}" for name in CHOICES)
    now = f"; as it stands: {row['would_be']}" if row["would_be"] is not None else ""
    return f"of all stake {shares}{now}"


def _format_share(amount: int, stake: int) -> str:
    return f"{100 * amount / stake:.1f} %" if stake else "-"
