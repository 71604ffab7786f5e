"""A restart: how validators that cannot decide any more, their vote logs lost, go on with other vote keys.

Whoever lost its vote log says nothing until a height is decided; when those are a third or more, none ever is. Then
accounts that hold more than two thirds of the stake sign where the ledger stands and by which keys they vote from there
on. A restart changes vote keys and nothing else: no block is taken back, no money moves. The block after it names it as
its parent, so that no vote of before counts after it. It travels, and is kept, with that block. Source: PROTOCOL,
"Lost vote log"; docs/decisions, 0089.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from protocol.errors import RemoteError
from protocol.ledger.apply import apply_block
from protocol.ledger.block import (
    VOTES_MAX,
    Block,
    Certificate,
    Validator,
    get_validators,
    is_quorum,
    verify_certificate,
)
from protocol.ledger.draft import Draft, Overlay
from protocol.ledger.records import FormerKey, KeyOwner, NodeRecord, RestartRecord
from protocol.ledger.restart_terms import (
    Restart,
    RestartSeat,
    RestartTerms,
    compute_restart_id,
    is_signed,
    pair_seats,
)
from protocol.ledger.state import State, compute_state_root


class InvalidRestart(RemoteError):
    """Not what more than two thirds of the stake have signed, or not for this ledger."""


class StandsElsewhere(InvalidRestart):
    """A restart of another chain, height or block than the ledger's last one. Decided blocks are never taken back."""

    def __init__(self, what: str, stands_on: int | str, ledger: int | str) -> None:
        super().__init__(f"the restart stands on {what} {stands_on}, the ledger on {ledger}")
        self.stands_on = stands_on
        self.ledger = ledger


class RestartTooOld(InvalidRestart):
    """The ledger has been through this restart, or a later one."""

    def __init__(self, generation: int, newest: int) -> None:
        super().__init__(
            f"restart {generation} is no later one than restart {newest}, which the ledger has been through"
        )
        self.generation = generation
        self.newest = newest


class NoRestartQuorum(InvalidRestart):
    """Those who have signed hold too little."""

    def __init__(self, what: str, signed: int, total: int) -> None:
        super().__init__(f"{what} of {signed} out of {total} has signed, more than two thirds are needed")
        self.signed = signed
        self.total = total


def make_terms(state: State, generation: int, seats: Mapping[bytes, bytes]) -> RestartTerms:
    """Terms that stand on a state; `seats` are new vote keys by account."""
    listed = tuple(RestartSeat(account, seats[account]) for account in sorted(seats))
    return RestartTerms(state.chain, generation, state.height, state.block_id, compute_state_root(state), listed)


def get_generation(state: State) -> int:
    """Of the newest restart the ledger has been through; 0 for none."""
    return max(state.restarts, default=0)


def get_restart(state: State) -> RestartRecord | None:
    """The restart that the next block follows; None when it follows a block."""
    newest = state.restarts.get(get_generation(state))
    return newest if newest is not None and newest.id == state.block_id else None


def verify_seated(
    restart: Restart, chain: bytes, validators: tuple[Validator, ...], newest: int
) -> tuple[Validator, ...]:
    """Who decides after a restart, and by which keys. InvalidRestart unless a quorum of `validators` has signed it.

    `newest` is the generation of the last restart known. Whoever has no seat keeps its key.
    """
    terms = restart.terms
    verify_seats(terms, chain, validators, newest)
    verify_signed(restart)
    seats = {seat.account: seat.vote for seat in terms.seats}
    seated = (replace(item, vote=seats.get(item.account, item.vote)) for item in validators)
    return tuple(sorted(seated, key=lambda item: item.vote))


def verify_signed(restart: Restart) -> None:
    """InvalidRestart unless every seat has signed, whoever it belongs to."""
    terms = restart.terms
    if len(restart.signatures) != len(terms.seats):
        raise InvalidRestart(f"{len(restart.signatures)} signatures for {len(terms.seats)} seats")
    for seat, signatures in pair_seats(restart):
        if not is_signed(terms, seat, signatures):
            raise InvalidRestart(f"account {seat.account.hex()} and vote key {seat.vote.hex()} have not signed this")


def verify_seats(terms: RestartTerms, chain: bytes, validators: tuple[Validator, ...], newest: int) -> None:
    """As `verify_seated`, of terms that nobody may have signed yet."""
    if terms.chain != chain:
        raise StandsElsewhere("chain", terms.chain.hex(), chain.hex())
    if terms.generation <= newest:
        raise RestartTooOld(terms.generation, newest)
    seats = {seat.account: seat.vote for seat in terms.seats}
    if [seat.account for seat in terms.seats] != sorted(seats):
        raise InvalidRestart("seats are not in strict order of account")
    strangers = seats.keys() - {item.account for item in validators}
    if strangers:
        raise InvalidRestart(f"account {min(strangers).hex()} does not validate")
    votes = [*seats.values(), *(item.vote for item in validators)]
    if len(set(votes)) != len(votes):
        raise InvalidRestart("a vote key of the restart is not new, or stands in it twice")
    signed = sum(item.weight for item in validators if item.account in seats)
    total = sum(item.weight for item in validators)
    if not is_quorum(signed, total):
        raise NoRestartQuorum("weight", signed, total)


def verify_restart(restart: Restart, state: State) -> None:
    """InvalidRestart unless it stands on this very state, and those who hold its stake have signed it."""
    verify_terms(restart.terms, state)
    verify_seated(restart, state.chain, get_validators(state), get_generation(state))


def verify_terms(terms: RestartTerms, state: State) -> None:
    """As `verify_restart`, of terms that nobody may have signed yet."""
    verify_standing(terms, state)
    for seat in terms.seats:
        _verify_new(state, seat)
    verify_seats(terms, state.chain, get_validators(state), get_generation(state))
    signed, total = compute_signed_stake(state, {seat.account for seat in terms.seats})
    if not is_quorum(signed, total):
        raise NoRestartQuorum("a stake", signed, total)


def verify_standing(terms: RestartTerms, state: State) -> None:
    """StandsElsewhere unless the terms are of this very state."""
    if terms.height != state.height:
        raise StandsElsewhere("height", terms.height, state.height)
    if terms.block_id != state.block_id:
        raise StandsElsewhere("block", terms.block_id.hex(), state.block_id.hex())
    root = compute_state_root(state)
    if terms.state_root != root:
        raise StandsElsewhere("state root", terms.state_root.hex(), root.hex())


def compute_signed_stake(state: State, accounts: set[bytes]) -> tuple[int, int]:
    """What is bonded and delegated to the validators of these accounts, and to all, in grains."""
    stakes = state.epochs[state.epoch].stakes[:VOTES_MAX]
    signed = sum(stake for stake, item in stakes if item.account in accounts)
    return signed, sum(stake for stake, _ in stakes)


def apply_restart(state: State, restart: Restart) -> State:
    """The state after a restart, which the next block follows. InvalidRestart as `verify_restart`.

    The snapshot of the epoch and the node records get the new vote keys; the former ones stay their accounts' own.
    """
    verify_restart(restart, state)
    terms = restart.terms
    draft = Draft(state, state.height, state.time_ms)
    snapshot = state.epochs[state.epoch]
    seats = {seat.account: seat.vote for seat in terms.seats}
    former = tuple(FormerKey(item.account, item.vote) for item in snapshot.candidates if item.account in seats)
    candidates = tuple(replace(item, vote=seats.get(item.account, item.vote)) for item in snapshot.candidates)
    draft.epochs.put(state.epoch, replace(snapshot, candidates=candidates))
    for key in former:
        _change_vote(draft.nodes, draft.vote_owners, key, seats[key.account], state.epoch + 1)
    restart_id = compute_restart_id(terms)
    draft.restarts.put(terms.generation, RestartRecord(restart_id, state.height, state.epoch, former))
    return draft.freeze(restart_id)


def apply_decided(
    state: State,
    block: Block,
    certificate: Certificate,
    restarts: Sequence[Restart] = (),
    check_signatures: bool = True,
) -> State:
    """The state after a decided block and the restarts it follows; `changes` are those of all of them.

    RemoteError unless the validators after `state`, or after the restarts, have decided the block and it applies.
    """
    changes: dict[tuple[str, bytes], bytes | None] = {}
    for restart in restarts:
        state = apply_restart(state, restart)
        changes |= {(table, key): record for table, key, record in state.changes}
    verify_certificate(certificate, block.header, state)
    after = apply_block(state, block, check_signatures)
    if not restarts:
        return after
    changes |= {(table, key): record for table, key, record in after.changes}
    return replace(after, changes=tuple((*key, record) for key, record in changes.items()))


def _verify_new(state: State, seat: RestartSeat) -> None:
    """A key that may have voted before could contradict itself: its log may be lost too."""
    owner = state.vote_owners.get(seat.vote)
    if owner is not None and owner.account != seat.account:
        raise InvalidRestart(f"vote key {seat.vote.hex()} belongs to account {owner.account.hex()}")
    if any(item.vote == seat.vote for snapshot in state.epochs.values() for item in snapshot.candidates):
        raise InvalidRestart(f"vote key {seat.vote.hex()} has been in force before")


def _change_vote(
    nodes: Overlay[bytes, NodeRecord], owners: Overlay[bytes, KeyOwner], key: FormerKey, vote: bytes, left_epoch: int
) -> None:
    """A key that was to follow by `RotateKeys` gives way too, unless it is the very one."""
    node = nodes.get(key.account)
    is_validator = node is not None and bool(node.vote)
    for old in {key.vote, node.vote if node is not None else b""} - {vote, b""}:
        owners.put(old, KeyOwner(key.account, left_epoch))
    owners.put(vote, KeyOwner(key.account, 0 if is_validator else left_epoch))
    if node is not None and is_validator:
        nodes.put(key.account, replace(node, vote=vote))
