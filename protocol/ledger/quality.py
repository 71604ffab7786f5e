"""Quality: what a node's record on the ledger makes of it, from 0 to BP, once an epoch.

It counts in what has burnt. Work that was paid brings what its fees burnt; what was forfeited, lost in a dispute or not
said in time takes away many times what it lost. A node without a record has none, so a new name hides nothing: it
stands where the worst stand. Quality raises the weight a node is drawn by and lowers how many of its leaves are looked
at, never below a floor. Verifiers that dissent in vain too often are drawn no more, and oracles that see too often
what no other sees are heard no more.
Source: PROTOCOL, "Choosing a worker".
"""

from protocol.ledger.money import split_inference_fee
from protocol.ledger.params import Params
from protocol.ledger.records import NO_WORK, WorkCount
from protocol.types import BP


def compute_quality(work: WorkCount | None, params: Params) -> int:
    """In basis points. More burnt never lowers it, more lost never raises it.

    >>> half = Params().quality_half
    >>> [compute_quality(WorkCount(0, 0, 0, 0, burnt=burnt), Params()) for burnt in (0, half, 3 * half)]
    [0, 5000, 7500]
    """
    known = work or NO_WORK
    return BP * known.burnt // (known.burnt + params.quality_half + params.lost_times * known.lost)


def compute_draw_weight(bond: int, quality: int, params: Params) -> int:
    """By what a node is drawn: its bond, of which `quality_floor_bp` count whatever its quality."""
    return bond * (params.quality_floor_bp * BP + (BP - params.quality_floor_bp) * quality) // BP**2


def compute_sample_bp(quality: int, params: Params) -> int:
    """The share of a worker's leaves that must be opened: `sample_bp` without quality, down to `sample_floor_bp`."""
    return params.sample_bp - (params.sample_bp - params.sample_floor_bp) * quality // BP


def may_verify(work: WorkCount | None, params: Params) -> bool:
    """Whether a verifier is drawn: not once it has dissented in vain too often for what it has agreed on."""
    known = work or NO_WORK
    return known.minority <= params.minorities_max + known.agreed * params.minority_bp // BP


def may_observe(work: WorkCount | None, params: Params) -> bool:
    """Whether an oracle is heard: not once it has been an outlier too often for what it has observed."""
    known = work or NO_WORK
    return known.outliers <= params.minorities_max + known.observed * params.minority_bp // BP


def compute_burnt(fee: int, params: Params) -> int:
    """What a fee burns when it is paid."""
    return split_inference_fee(fee, 1, params)[3]
