"""The ledger's parameters: whole numbers that genesis fixes and every rule reads.

Amounts are grains, shares basis points, times milliseconds of header time. Source of the splits: PROTOCOL, "Paying".
"""

from dataclasses import fields
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.types import BP, GRAINS_PER_ROLE, AtMost, Grains, Name, ShareBp, Whole

DELAY_MS_MAX = 2**60
LOST_TIMES_MAX = 1_000_000
DISPUTE_WINDOW_MS_MIN = 1_000  # a block takes that long on a busy network
DISPUTE_PHASES = 6  # of one about a text
BASE_FEE_MIN_MAX = 2**50  # so that a block's fees stay far below what fits a number


@fast_dataclass(frozen=True)
class RoleBond:
    """The least a node must have bonded to be drawn or listened to in a role."""

    role: Name
    grains: Grains


@fast_dataclass(frozen=True)
class Params:
    epoch_ms: Whole = 20_000
    epochs_kept: Whole = 16  # snapshots; also how long a claim can settle or be disputed
    base_fee_min: Grains = 100_000  # a unit of a block's room
    fee_idle_ms: Whole = 1_000  # without a block lower the base fee as an empty one does
    fee_validators_bp: ShareBp = 3_000
    fee_treasury_bp: ShareBp = 3_000  # the rest burns
    inference_worker_bp: ShareBp = 8_000
    inference_verifiers_bp: ShareBp = 800
    inference_treasury_bp: ShareBp = 1_000  # the rest burns
    lease_storage_bp: ShareBp = 8_800
    lease_treasury_bp: ShareBp = 1_000  # the rest burns
    bonds: Annotated[tuple[RoleBond, ...], AtMost(64)] = (
        RoleBond("inference", 100 * GRAINS_PER_ROLE),
        RoleBond("oracle", 100 * GRAINS_PER_ROLE),
        RoleBond("storage", 100 * GRAINS_PER_ROLE),
        RoleBond("validator", 1_000 * GRAINS_PER_ROLE),
        RoleBond("verifier", 100 * GRAINS_PER_ROLE),
    )
    slash_bp: ShareBp = 1_000
    vote_slash_bp: ShareBp = 500  # for votes no honest validator casts, and on top of it
    vote_slash_times: Whole = 3  # so many times the share of stake that is guilty at the same time
    reporter_bp: ShareBp = 5_000  # of a slash; the rest burns, at least half
    settle_window_ms: Whole = 3_000  # from settlement to payout
    channel_close_delay_ms: Whole = 30_000  # in which the payee can still settle
    job_ms_max: Whole = 3_600_000  # from opening an escrowed job to its deadline
    jobs_max: Whole = 100_000
    batches_max: Whole = 8  # of one worker, not yet paid out
    sample_bp: ShareBp = 1_000  # of the leaves of a worker without quality must be opened
    sample_floor_bp: ShareBp = 500  # of those of the best
    quality_half: Grains = 100 * GRAINS_PER_ROLE  # burnt by the fees of paid work for half of all quality
    quality_floor_bp: ShareBp = 5_000  # of a node's bond count in draws whatever its quality
    lost_times: Whole = 10  # what was lost weighs so many times what was burnt
    minorities_max: Whole = 3  # dissents in vain, after which a verifier is drawn no more
    minority_bp: ShareBp = 100  # and so many more for what it has agreed on
    sample_awake_ms: Whole = 60_000  # for so long a batch keeps the network awake for its seed
    open_ms: Whole = 10_000  # to open drawn leaves, and later their digests
    attest_ms: Whole = 10_000  # for drawn verifiers to speak, before others are drawn in their place
    dispute_window_ms: Whole = 10_000  # from a batch's last digest to its payout: for dissenters to dispute its leaves
    dispute_ms: Whole = 20_000  # for each word of a dispute: trace, operator, exhibit, verdict
    challenge_ms: Whole = 30_000  # after a claim's deadline: so long its receipt can be disputed, paid or not
    dispute_bond: Grains = 10 * GRAINS_PER_ROLE  # of a challenger, lost if it is wrong
    disputes_max: Whole = 32  # at a time: each may hold three transactions' worth of evidence
    answer_ms: Whole = 10_000  # to publish a withheld output
    answer_fee: Grains = GRAINS_PER_ROLE // 100  # put up by who asks for it: out of it the answer is paid
    withheld_max: Whole = 256  # at a time: each may hold an output
    demand_ms: Whole = 20_000  # to open a claim a drawn verifier demands
    demand_penalty: Grains = GRAINS_PER_ROLE  # of the stake of a worker that does not
    demands_max: Whole = 1_000
    audit_ms: Whole = 30_000  # from one audit of a lease to the next, and what a node is paid for at a time
    audit_answer_ms: Whole = 5_000  # to answer one
    audit_fee: Grains = GRAINS_PER_ROLE // 50  # for each answer, beside the price: it takes room on the ledger
    audit_penalty_times: Whole = 20  # an audit without an answer costs so many times what the answer would have brought
    audit_misses_max: Whole = 1  # in a row; one more loses the lease
    lease_accept_ms: Whole = 10_000  # for a drawn node to accept a lease, and a second more for each MiB
    leases_max: Whole = 100_000
    grace_ms: Whole = 10_000  # after the block that reaches a deadline which punishes silence
    evidence_epochs: Whole = 3  # votes can be held against a validator for so long
    unbonding_ms: Whole = 400_000  # outlasts all evidence
    delegation_min: Grains = 10 * GRAINS_PER_ROLE  # a validator has room for few: none is wasted on dust
    verifiers_max: Whole = 7
    working_set: Whole = 4
    due_items_max: Whole = 1_000  # run in one block
    oracle_heartbeat_ms: Whole = 5_000
    oracle_rounds_late: Whole = 3  # a report may be this many rounds behind its block
    header_ahead_ms: Whole = 500  # of the voter's clock
    header_behind_ms: Whole = 10_000
    accounts_max: Whole = 1_000_000
    nodes_max: Whole = 1_000
    channels_max: Whole = 100_000
    models_max: Whole = 1_000
    model_deposit: Grains = 100 * GRAINS_PER_ROLE  # held for as long as the ledger holds the model
    unbondings_max: Whole = 32  # of one account at a time
    proposal_deposit: Grains = 100 * GRAINS_PER_ROLE  # burnt if it is vetoed, or if too few vote
    proposal_voting_ms: Whole = 15_000
    proposal_delay_ms: Whole = 5_000  # from the end of the vote to its coming into force
    proposal_quorum_bp: ShareBp = 3_334  # of all stake must vote
    proposal_threshold_bp: ShareBp = 5_000  # of what does not abstain must be more than this for it
    proposal_veto_bp: ShareBp = 3_334  # of what votes; more than this against it as harmful ends it

    def get_bond_min(self, role: str) -> int:
        """The bond a role asks for; 0 for roles that ask for none."""
        return next((bond.grains for bond in self.bonds if bond.role == role), 0)


def verify_params(params: Params) -> None:
    """ValueError for numbers no ledger could run with."""
    at_least_one = ("audit_ms", "base_fee_min", "due_items_max", "epoch_ms", "fee_idle_ms", "oracle_heartbeat_ms")
    zero = next((name for name in at_least_one if not getattr(params, name)), None)
    if zero is not None:
        raise ValueError(f"{zero} must be at least 1")
    if params.base_fee_min > BASE_FEE_MIN_MAX:
        raise ValueError(f"base_fee_min is {params.base_fee_min}, at most {BASE_FEE_MIN_MAX} allowed")
    if params.epochs_kept < 2 or params.verifiers_max < 2 or not params.working_set:
        raise ValueError("epochs_kept and verifiers_max must be at least 2, working_set at least 1")
    if not 0 < params.sample_floor_bp <= params.sample_bp:
        raise ValueError(
            f"sample_floor_bp is {params.sample_floor_bp}, from 1 to sample_bp ({params.sample_bp}) allowed"
        )
    if not params.quality_half or not params.quality_floor_bp:
        raise ValueError("quality_half and quality_floor_bp must be at least 1: new nodes are drawn too")
    most = LOST_TIMES_MAX
    if params.lost_times > most:
        raise ValueError(f"lost_times is {params.lost_times}, at most {most} allowed")
    delays = {item.name: getattr(params, item.name) for item in fields(params) if item.name.endswith("_ms")}
    longest = max(delays, key=lambda name: delays[name])
    if delays[longest] > DELAY_MS_MAX:
        raise ValueError(f"{longest} is {delays[longest]}, at most {DELAY_MS_MAX} allowed")
    evidence_ms = params.epoch_ms * max(params.evidence_epochs + 2, params.epochs_kept)
    if params.unbonding_ms < evidence_ms:
        raise ValueError(f"unbonding_ms is {params.unbonding_ms}, evidence is accepted for {evidence_ms}")
    if params.dispute_window_ms < DISPUTE_WINDOW_MS_MIN:
        raise ValueError(f"dispute_window_ms is {params.dispute_window_ms}, at least {DISPUTE_WINDOW_MS_MIN} needed")
    # What was demanded at the end of its time is opened in that of the demand, and then disputed for as long again.
    opened_ms = params.challenge_ms + params.demand_ms + params.grace_ms
    disputed_ms = opened_ms + params.challenge_ms + DISPUTE_PHASES * (params.dispute_ms + params.grace_ms)
    if params.unbonding_ms < disputed_ms:
        raise ValueError(f"unbonding_ms is {params.unbonding_ms}, a dispute may take {disputed_ms}")
    if params.fee_validators_bp + params.fee_treasury_bp > BP:
        raise ValueError(f"the shares of a transaction fee exceed {BP} basis points")
    if params.inference_worker_bp + params.inference_verifiers_bp + params.inference_treasury_bp > BP:
        raise ValueError(f"the shares of an inference fee exceed {BP} basis points")
    if params.lease_storage_bp + params.lease_treasury_bp > BP:
        raise ValueError(f"the shares of what a lease pays exceed {BP} basis points")
    if params.reporter_bp > BP // 2:
        raise ValueError(f"at least half of a slash burns: reporter_bp is {params.reporter_bp}, at most {BP // 2}")
    if len({bond.role for bond in params.bonds}) != len(params.bonds):
        raise ValueError("a role has two bonds")
