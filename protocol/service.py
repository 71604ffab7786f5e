"""What an account says of the service it has had, signed, epoch by epoch: how long answers took, and who refused.

Nobody can check a latency. It is the account's word, and whoever adds statements up keeps who said what. Times are
counted in buckets, so that statements can be added up at all.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import zip_longest
from typing import Annotated, ClassVar

from protocol.fast_dataclass import fast_dataclass
from protocol.types import AtMost, ChainId, Name, PublicKey, Signature, Whole

WORKERS_MAX = 64
CODES_MAX = 32
OCTAVES = 20  # up to 70 minutes
# Upper edges of the buckets, in ms: every millisecond at first, then four to an octave, so that none errs by a quarter.
EDGES_MS: tuple[int, ...] = (
    1,
    2,
    3,
    4,
    *(2**octave * quarter for octave in range(OCTAVES) for quarter in (5, 6, 7, 8)),
)


@fast_dataclass(frozen=True)
class CodeCount:
    code: Name
    count: Whole


@fast_dataclass(frozen=True)
class WorkerService:
    """`latencies` count answers by bucket (EDGES_MS), from asking this worker to releasing its result.

    What came of others that were asked before it is counted for them; `refusals` are by their codes.
    """

    worker: PublicKey  # node key
    latencies: Annotated[tuple[Whole, ...], AtMost(len(EDGES_MS))]
    refusals: Annotated[tuple[CodeCount, ...], AtMost(CODES_MAX)]


@fast_dataclass(frozen=True)
class ServiceStatement:
    """Of one epoch, in which the requests ended. `failures` are requests nobody answered, by their codes.

    `left_out` requests had to do with more workers than a statement has room for.
    """

    DOMAIN: ClassVar[str] = "service"

    chain: ChainId
    account: PublicKey
    epoch: Whole
    workers: Annotated[tuple[WorkerService, ...], AtMost(WORKERS_MAX)]
    failures: Annotated[tuple[CodeCount, ...], AtMost(CODES_MAX)]
    left_out: Whole
    signature: Signature


def compute_bucket(latency_ms: int) -> int:
    """The bucket a latency is counted in.

    >>> compute_bucket(0), compute_bucket(4), compute_bucket(5), compute_bucket(100)
    (0, 3, 4, 22)
    """
    return min(bisect_left(EDGES_MS, latency_ms), len(EDGES_MS) - 1)


def compute_quantile_ms(latencies: Sequence[int], percent: int) -> int | None:
    """The upper edge of the bucket that holds this percentile, by nearest rank; None where nothing is counted.

    >>> compute_quantile_ms((0, 3, 0, 1), 50), compute_quantile_ms((0, 3, 0, 1), 99), compute_quantile_ms((), 50)
    (2, 4, None)
    """
    rank = -(-sum(latencies) * percent // 100)
    for index, count in enumerate(latencies):
        rank -= count
        if count and rank <= 0:
            return EDGES_MS[index]
    return None


def add_latencies(some: Sequence[int], others: Sequence[int]) -> tuple[int, ...]:
    """Counts of both.

    >>> add_latencies((1, 2), (0, 0, 5))
    (1, 2, 5)
    """
    return tuple(one + other for one, other in zip_longest(some, others, fillvalue=0))
