"""Which parameters a vote can change, and how far. No others, and no farther.

Not among them is what open business was reckoned by: the lengths of epochs and of leases' audits, for instance.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from protocol.ledger.governance_errors import InvalidProposal
from protocol.ledger.params import Params, verify_params
from protocol.types import BP, GRAINS_PER_ROLE

DAY_MS = 24 * 3_600_000


class Range(NamedTuple):
    """From the least to the most, both allowed."""

    least: int
    most: int


_SHARE = Range(0, BP)
_DELAY = Range(1_000, 30 * DAY_MS)
_AMOUNT = Range(GRAINS_PER_ROLE // 1_000, 1_000_000 * GRAINS_PER_ROLE)

RANGES: Mapping[str, Range] = MappingProxyType(
    {
        "base_fee_min": Range(1, GRAINS_PER_ROLE),
        "fee_validators_bp": _SHARE,
        "fee_treasury_bp": _SHARE,
        "inference_worker_bp": Range(BP // 2, BP),  # who does the work gets most of what it earns
        "inference_verifiers_bp": _SHARE,
        "inference_treasury_bp": _SHARE,
        "lease_storage_bp": Range(BP // 2, BP),
        "lease_treasury_bp": _SHARE,
        "slash_bp": Range(1, BP),
        "vote_slash_bp": Range(1, BP),
        "reporter_bp": Range(0, BP // 2),
        "settle_window_ms": _DELAY,
        "channel_close_delay_ms": _DELAY,
        "sample_bp": Range(1, BP),
        "sample_floor_bp": Range(1, BP),
        "quality_half": _AMOUNT,
        "dispute_bond": _AMOUNT,
        "delegation_min": _AMOUNT,
        "model_deposit": _AMOUNT,
        "proposal_deposit": _AMOUNT,
        "proposal_voting_ms": _DELAY,
        "proposal_delay_ms": _DELAY,
        "proposal_quorum_bp": Range(1_000, BP),
        "proposal_threshold_bp": Range(BP // 2, BP - 1),  # more than half, and never more than all
        "proposal_veto_bp": Range(1_000, BP // 2),
    }
)


def change_parameter(params: Params, name: str, value: int) -> Params:
    """The parameters with one of them changed. InvalidProposal where that is not open to a vote."""
    allowed = RANGES.get(name)
    if allowed is None:
        raise InvalidProposal(f"no vote changes {name!r}; open to one are {', '.join(RANGES)}")
    if not allowed.least <= value <= allowed.most:
        raise InvalidProposal(f"{name} is {allowed.least} to {allowed.most}, not {value}")
    changed: Params = replace(params, **{name: value})  # type: ignore[arg-type]  # all in RANGES are whole numbers
    try:
        verify_params(changed)
    except ValueError as error:
        raise InvalidProposal(str(error)) from error
    return changed
