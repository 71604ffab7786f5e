"""What a proof kind is given besides its evidence: the job the evidence is about, and whom the reader trusts."""

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import InferenceRequest, Receipt
from protocol.tensor import Tensor

EVIDENCE_BYTES_MAX = 64 * 1024


@fast_dataclass(frozen=True)
class Measurement:
    """What an enclave runs: PCR 0 (image), 1 (kernel and boot), 2 (application), SHA-384 each."""

    pcr0: bytes
    pcr1: bytes
    pcr2: bytes


@fast_dataclass(frozen=True)
class Trust:
    """What the reader of a proof accepts that no proof can show by itself. Nothing, unless said.

    `is_test_network` lets in what anyone can make: simulated enclaves, and zero-knowledge proofs over a set-up whose
    secret is known. Only a chain whose keys are public may have it.
    """

    measurements: frozenset[Measurement] = frozenset()  # enclaves known to run the model faithfully
    setups: frozenset[bytes] = frozenset()  # sha256 of structured reference strings from a ceremony
    is_test_network: bool = False


@fast_dataclass(frozen=True)
class ProofContext:
    """The job that evidence is said to be about. Its receipt fits its request and its outputs: that is checked.

    `at_ms` is the time the evidence had to hold at: the request's deadline, which its id covers.
    """

    request: InferenceRequest
    receipt: Receipt
    outputs: tuple[Tensor, ...]
    at_ms: int
    trust: Trust
