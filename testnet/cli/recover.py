"""`rolemesh ledger recover`: validators that lost their vote logs go on with other vote keys, if the stake agrees."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.node import DATA, Data
from testnet.cli.output import CommandError, ExitCode, Output, format_count, format_role
from testnet.cli.passphrases import PassphraseFile, open_with_passphrase

if TYPE_CHECKING:
    from protocol.ledger.genesis import Genesis
    from protocol.ledger.restart_draft import RestartDraft
    from protocol.ledger.restart_terms import Restart, RestartTerms
    from protocol.ledger.state import State

GENERATIONS_AHEAD_MAX = 1_000  # of the next number: later ones are slips of a key, and there is no way back from them
Files = Annotated[list[Path], Parameter(name="FILES", negative="")]
GiveUp = Annotated[
    str,
    Parameter(
        name="--give-up",
        help="Id of a block this validator voted to finalise, which no node holds as decided: give it up.",
    ),
]

app = App(
    name="recover",
    help="Go on after more than a third of the validators lost their vote logs. Each operator stops the node, runs "
    "propose and gives the file to the others; with the files of all, sign; with those of all again, apply; and starts "
    "the node. More than two thirds of the stake must take part. Nothing decided is ever taken back.",
    help_epilogue="Examples:\n\n  rolemesh ledger recover propose alice.offer --data ./validator\n\n"
    "  rolemesh ledger recover sign alice.offer bob.offer carol.offer --out alice.signed --data ./validator\n\n"
    "  rolemesh ledger recover apply alice.signed bob.signed carol.signed --data ./validator",
)


@dataclass(frozen=True)
class Standing:
    """Where a stopped node stands: its last block, and the restarts its operator has loaded since."""

    genesis: "Genesis"
    decided: "State"
    loaded: "tuple[Restart, ...]"
    account: bytes


@app.command(
    help_epilogue="Examples:\n\n  rolemesh ledger recover propose alice.offer --data ./validator\n\n"
    "  rolemesh ledger recover propose alice.offer --data ./validator --passphrase-file /run/secrets/rolemesh --json"
)
def propose(
    file: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    data: Data = DATA,
    generation: Annotated[int, Parameter(name="--generation")] = 0,
    give_up: GiveUp = "",
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make a new vote key for this validator, and a file that offers it. The node must be stopped.

    The file holds nothing secret. Before, every node that still has a disk should have run once, so that the validators
    have fetched what any of them holds.

    Parameters
    ----------
    generation
        Number of the restart, the same for all; the next one unless given. A later one begins anew after a restart that
        was signed and could not be completed.
    """
    from protocol.ledger.block import get_validators
    from protocol.ledger.restart import get_generation
    from protocol.ledger.restart_draft import encode_draft, offer_seat, verify_room
    from roles.recovery import get_signed_path
    from testnet.cli.keys import make_next

    output = Output(json)
    _check_free(file)
    with _stand(data) as standing, _explained():
        verify_room(standing.loaded)
        state = _restart_all(standing.decided, standing.loaded)
        if standing.account not in {item.account for item in get_validators(state)}:
            hint = "only validators of this epoch restart a ledger; others follow by themselves"
            raise CommandError("no_validator", f"the node in {data} does not validate", hint, ExitCode.CONFIG)
        _check_finalised(data, state.height + 1, give_up)
        least = get_generation(state) + 1
        if generation and generation < least:
            hint = "leave --generation out"
            raise CommandError("old_generation", f"{generation} is not {least} or later", hint, ExitCode.USAGE)
        if generation > least + GENERATIONS_AHEAD_MAX:
            message = f"{generation} is later than {least + GENERATIONS_AHEAD_MAX}: it would use up all before it"
            hint = "leave --generation out, or take the next one that nobody has signed yet"
            raise CommandError("late_generation", message, hint, ExitCode.USAGE)
        number = generation or least
        while not generation and get_signed_path(data, number).exists():
            number += 1
        passphrase = open_with_passphrase(data, output, passphrase_file)
        vote = make_next(data, "vote", passphrase, standing.genesis)["vote"]
        draft = offer_seat(state, standing.loaded, number, standing.account, vote.public)
        _write(file, encode_draft(draft))
    output.say(f"{file}: restart {number} at height {state.height}, with vote key {vote.public.hex()}")
    output.note("give it to the other operators; with theirs: `rolemesh ledger recover sign FILES --out FILE`")
    output.give({"file": file, "vote": vote.public, **_describe(draft.terms)})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh ledger recover sign alice.offer bob.offer carol.offer --out alice.signed"
    " --data ./validator\n\n  rolemesh ledger recover sign *.offer --out alice.signed --data ./validator --json"
)
def sign(
    files: Files,
    /,
    *,
    out: Annotated[Path, Parameter(name="--out", help="File to write: all keys, with this validator's signatures.")],
    data: Data = DATA,
    give_up: GiveUp = "",
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Put this validator's signatures under the keys that all have proposed. The node must be stopped.

    All must sign with the same files of `propose`. Of one restart number an account signs one restart, and never
    another.

    Parameters
    ----------
    files
        Files of `propose` of all who take part, this validator's included.
    """
    from protocol.keys import PrivateKey
    from protocol.ledger.restart import verify_terms
    from protocol.ledger.restart_draft import encode_draft, sign_draft
    from roles.keystore import get_place, open_fields, read_fields, read_key
    from roles.recovery import note_signed
    from roles.rotation import get_next_path

    output = Output(json)
    _check_free(out)
    draft = _merge(files)
    with _stand(data) as standing, _explained():
        _check_loaded(standing, draft)
        state = _restart_all(standing.decided, draft.before)
        verify_terms(draft.terms, state)
        path = get_next_path(data, "vote")
        if not path.exists():
            hint = "run `rolemesh ledger recover propose FILE` first, and give the file to the others"
            raise CommandError("no_key", f"no vote key waits in {data}", hint, ExitCode.CONFIG)
        _check_finalised(data, state.height + 1, give_up)
        passphrase = open_with_passphrase(data, output, passphrase_file)
        account = read_key(data, "account", get_place(state.chain, standing.genesis.name), passphrase)
        vote: PrivateKey = open_fields(path, read_fields(path), passphrase)
        signed = sign_draft(draft, account, vote)
        note_signed(data, draft.terms)
        _write(out, encode_draft(signed))
        _say_terms(output, draft.terms, state)
    output.say(f"{out}: signed by this validator")
    output.note("give it to the other operators; with theirs: `rolemesh ledger recover apply FILES`")
    output.give({"file": out, **_describe(draft.terms)})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh ledger recover apply alice.signed bob.signed carol.signed"
    " --data ./validator\n\n  rolemesh ledger recover apply *.signed --data ./archive --json"
)
def apply(files: Files, /, *, data: Data = DATA, json: Json = False) -> None:
    """Load the restart that all have signed. The node must be stopped, and takes its new key up when it starts.

    Who does not validate needs no restart file: it gets the restart with the block that follows it.

    Parameters
    ----------
    files
        Files of `sign` of all who take part.
    """
    from protocol.ledger.restart_draft import complete_draft
    from protocol.ledger.restart_terms import compute_restart_id
    from roles.keystore import get_key_path, read_public
    from roles.recovery import write_pending
    from roles.rotation import get_next_path

    output = Output(json)
    draft = _merge(files)
    with _stand(data) as standing, _explained():
        _check_loaded(standing, draft)
        state = _restart_all(standing.decided, draft.before)
        restarts = (*draft.before, complete_draft(draft))
        _restart_all(standing.decided, restarts)
        vote = next((seat.vote for seat in draft.terms.seats if seat.account == standing.account), None)
        paths = (get_next_path(data, "vote"), get_key_path(data, "vote"))
        if vote is not None and vote not in {read_public(path) for path in paths if path.exists()}:
            hint = "name the directory in which this validator's key was made with --data"
            raise CommandError("no_key", f"vote key {vote.hex()} is not in {data}", hint, ExitCode.CONFIG)
        path = write_pending(data, standing.decided, restarts)
        _say_terms(output, draft.terms, state)
    output.say(f"{path}: loaded; start the node: `rolemesh node run --data {data}`")
    output.give({"file": path, "id": compute_restart_id(draft.terms), **_describe(draft.terms)})


@contextmanager
def _stand(data: Path) -> "Iterator[Standing]":
    """Where a node stands, with its directory locked. Raises UserError while it runs."""
    from protocol.ledger.restart_pending import is_ahead
    from roles.config import read_config, read_genesis
    from roles.keystore import get_key_path, read_public
    from roles.lock import DirectoryLock
    from roles.recovery import read_decided, read_pending

    read_config(data)
    with DirectoryLock(data):
        decided = read_decided(data)
        account = read_public(get_key_path(data, "account"))
        loaded = read_pending(data, decided)
        if is_ahead(decided, loaded):
            raise _make_behind(loaded[0].terms.height, decided.height)
        yield Standing(read_genesis(data), decided, loaded, account)


def _check_loaded(standing: Standing, draft: "RestartDraft") -> None:
    loaded, decided = [restart.terms for restart in standing.loaded], standing.decided
    if [*(restart.terms for restart in draft.before), draft.terms][: len(loaded)] != loaded:
        hint = "all must go on from it: `rolemesh ledger recover propose FILE` here makes a file that does"
        raise CommandError("other_restart", "another restart is loaded here already", hint, ExitCode.CONFIG)
    first = draft.before[0].terms if draft.before else draft.terms
    if first.height > decided.height:
        raise _make_behind(first.height, decided.height)
    if first.height < decided.height:
        done = decided.restarts.get(draft.terms.generation)
        message = f"the restart stands on height {first.height}, the ledger here has decided height {decided.height}"
        hint = "nothing decided is taken back: start this node, so that the others fetch what it has, and begin anew"
        if done is not None:
            hint = f"the ledger has been through restart {draft.terms.generation}: just start the node"
        raise CommandError("ahead", message, hint, ExitCode.CONFIG, height=decided.height, stands_on=first.height)


def _make_behind(stands_on: int, height: int) -> CommandError:
    message = f"the restart stands on height {stands_on}, the ledger here is at {height}"
    hint = "start the node, let it fetch what it lacks from the others, stop it, and do this again"
    return CommandError("behind", message, hint, ExitCode.CONFIG, height=height, stands_on=stands_on)


@contextmanager
def _explained() -> Iterator[None]:
    """What the rule for restarts says no to, for people."""
    from protocol.keys import format_account
    from protocol.ledger.restart import InvalidRestart, NoRestartQuorum
    from protocol.ledger.restart_draft import MissingSignatures, TooManyRestarts

    try:
        yield
    except NoRestartQuorum as error:
        hint = "get the files of more operators: together they must hold more than two thirds"
        raise CommandError("no_quorum", str(error), hint, signed=error.signed, total=error.total) from error
    except MissingSignatures as error:
        names = [format_account(account) for account in error.accounts]
        hint = "get what they wrote with `rolemesh ledger recover sign`; if they cannot, all begin anew without them"
        message = f"not signed by {', '.join(names)}"
        raise CommandError("not_signed", message, hint, missing=names) from error
    except TooManyRestarts as error:
        hint = (
            "if no node has decided a block after them, nobody holds to any of them: all move the file `restart` out "
            "of their directories and begin anew with `propose`"
        )
        raise CommandError("too_many_restarts", str(error), hint, ExitCode.CONFIG) from error
    except InvalidRestart as error:
        hint = "see that all ran `propose` with their ledgers at one height; `rolemesh node status` shows it"
        raise CommandError("bad_restart", str(error), hint, ExitCode.VERIFICATION_FAILED) from error


def _restart_all(state: "State", restarts: "tuple[Restart, ...]") -> "State":
    from protocol.ledger.restart import apply_restart

    for restart in restarts:
        state = apply_restart(state, restart)
    return state


def _check_finalised(data: Path, height: int, give_up: str) -> None:
    """A vote to finalise that is left: the others' may have decided that block for somebody who is away."""
    from roles.recovery import find_finalised

    found = find_finalised(data, height)
    if found is not None and found.hex() != give_up:
        message = f"this validator voted to finalise block {found.hex()} of height {height}: it may have been decided"
        hint = (
            "start every node there is, so that one that holds it gives it to the others; if none reaches height "
            f"{height}, give it up: --give-up {found.hex()}"
        )
        raise CommandError("may_be_decided", message, hint, ExitCode.CONFIG, height=height, block_id=found)


def _merge(files: list[Path]) -> "RestartDraft":
    from protocol.errors import RemoteError
    from protocol.ledger.restart_draft import DRAFT_BYTES_MAX, decode_draft, merge_drafts

    drafts = []
    for path in files:
        try:
            with path.open("rb") as file:
                drafts.append(decode_draft(file.read(DRAFT_BYTES_MAX + 1)))
        except (OSError, RemoteError) as error:
            hint = "name files of `rolemesh ledger recover propose` or `sign`; ask for a damaged one again"
            raise CommandError("bad_file", f"{path} is no restart file: {error}", hint, ExitCode.USAGE) from error
    with _explained():
        return merge_drafts(drafts)


def _check_free(path: Path) -> None:
    if path.exists():
        hint = "name another file: nothing is replaced"
        raise CommandError("file_exists", f"{path} is there already", hint, ExitCode.CONFIG)


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except OSError as error:
        hint = "name a file that can be written"
        raise CommandError("cannot_write", f"{path}: {error.strerror}", hint) from error


def _say_terms(output: Output, terms: "RestartTerms", state: "State") -> None:
    """What the operators agree on, for comparison by eye."""
    from protocol.keys import format_account
    from protocol.ledger.restart import compute_signed_stake
    from protocol.ledger.restart_terms import compute_restart_id

    stake, total = compute_signed_stake(state, {seat.account for seat in terms.seats})
    output.say(f"restart {terms.generation}, id {compute_restart_id(terms).hex()}")
    output.say(f"  stands on height {terms.height}, {terms.block_id.hex()}")
    output.say(f"  {format_count(len(terms.seats), 'validator')} with {format_role(stake)} of {format_role(total)}")
    for seat in terms.seats:
        output.say(f"  {format_account(seat.account)} votes by {seat.vote.hex()}")


def _describe(terms: "RestartTerms") -> dict[str, object]:
    from protocol.keys import format_account

    seats = [{"account": format_account(seat.account), "vote": seat.vote.hex()} for seat in terms.seats]
    return {
        "generation": terms.generation,
        "height": terms.height,
        "block_id": terms.block_id,
        "state_root": terms.state_root,
        "seats": seats,
    }
