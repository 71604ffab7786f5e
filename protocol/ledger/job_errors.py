"""Why the ledger refuses what is asked about paid work: channels, jobs, batches, and what is disputed."""

from protocol.errors import InvalidTransaction
from protocol.keys import format_account


class UnknownChannel(InvalidTransaction):
    def __init__(self, channel: bytes) -> None:
        super().__init__(f"there is no channel {channel.hex()}")
        self.channel = channel


class NotYourChannel(InvalidTransaction):
    """Only the payer closes a channel, only the payee settles it."""

    def __init__(self, channel: bytes, account: bytes) -> None:
        super().__init__(f"channel {channel.hex()} is not {format_account(account)}'s to do this with")
        self.channel = channel
        self.account = account


class ChannelClosing(InvalidTransaction):
    def __init__(self, channel: bytes, closing_ms: int) -> None:
        super().__init__(f"channel {channel.hex()} closes at {closing_ms} already")
        self.channel = channel
        self.closing_ms = closing_ms


class SequenceMismatch(InvalidTransaction):
    """A run of leaves begins at the last settled + 1, or it is refused whole."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"the channel's next leaf is {expected}, the run begins at {got}")
        self.expected = expected
        self.got = got


class VoucherExceeded(InvalidTransaction):
    """A leaf would pay more than the payer has signed for or put in."""

    def __init__(self, what: str, limit: int, need: int) -> None:
        super().__init__(f"the {what} covers {limit} grains, the leaves so far come to {need}")
        self.limit = limit
        self.need = need


class ExpiredVoucher(InvalidTransaction):
    def __init__(self, expiry_ms: int, time_ms: int) -> None:
        super().__init__(f"the voucher expired at {expiry_ms}, the block is of {time_ms}")
        self.expiry_ms = expiry_ms
        self.time_ms = time_ms


class InvalidLeaf(InvalidTransaction):
    """The parts of a leaf do not fit each other. `seq` says which leaf."""

    def __init__(self, seq: int, reason: str) -> None:
        super().__init__(f"leaf {seq}: {reason}")
        self.seq = seq


class TooFewCandidates(InvalidTransaction):
    """A committee never shrinks: with too few independent accounts there is none."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"{have} verifiers of other accounts than the worker's can be drawn, {need} are needed")
        self.have = have
        self.need = need


class InvalidDeadline(InvalidTransaction):
    def __init__(self, deadline_ms: int, earliest_ms: int, latest_ms: int) -> None:
        super().__init__(f"the deadline {deadline_ms} is not within {earliest_ms} to {latest_ms}")
        self.deadline_ms = deadline_ms
        self.earliest_ms = earliest_ms
        self.latest_ms = latest_ms


class InvalidPolicy(InvalidTransaction):
    """A number of verifiers no committee has."""

    def __init__(self, verifiers: int, least: int, most: int) -> None:
        super().__init__(f"{verifiers} verifiers; a committee has {least} to {most}")
        self.verifiers = verifiers
        self.least = least
        self.most = most


class UnknownJob(InvalidTransaction):
    """Never opened, or ended already: a job ends once."""

    def __init__(self, job: bytes) -> None:
        super().__init__(f"there is no open job {job.hex()}")
        self.job = job


class NotYourJob(InvalidTransaction):
    """Only its worker settles or refuses a job."""

    def __init__(self, job: bytes, account: bytes) -> None:
        super().__init__(f"job {job.hex()} is not {format_account(account)}'s to do this with")
        self.job = job
        self.account = account


class InvalidJobWork(InvalidTransaction):
    """The parts of a job's settlement do not fit each other or the job."""

    def __init__(self, job: bytes, reason: str) -> None:
        super().__init__(f"job {job.hex()}: {reason}")
        self.job = job


class UnknownBatch(InvalidTransaction):
    """No batch of this worker's, or paid out or forfeited already."""

    def __init__(self, batch: bytes) -> None:
        super().__init__(f"the account has no batch {batch.hex()}")
        self.batch = batch


class InvalidBatch(InvalidTransaction):
    """A batch or an opening of it that does not hold."""

    def __init__(self, batch: bytes, reason: str) -> None:
        super().__init__(f"batch {batch.hex()}: {reason}")
        self.batch = batch


class UnknownDispute(InvalidTransaction):
    """Never opened, or ended already."""

    def __init__(self, dispute: bytes) -> None:
        super().__init__(f"there is no dispute {dispute.hex()}")
        self.dispute = dispute


class InvalidDispute(InvalidTransaction):
    """A dispute that cannot be opened, or a word in it that is not the sender's, comes late or does not hold."""

    def __init__(self, dispute: bytes, reason: str) -> None:
        super().__init__(f"dispute {dispute.hex()}: {reason}")
        self.dispute = dispute


class AlreadyDisputed(InvalidTransaction):
    def __init__(self, claim_id: bytes) -> None:
        super().__init__(f"claim {claim_id.hex()} is in dispute already")
        self.claim_id = claim_id


class UnknownChallenge(InvalidTransaction):
    """Never made, or answered or over already."""

    def __init__(self, batch: bytes, index: int) -> None:
        super().__init__(f"nobody waits for the output of leaf {index} of batch {batch.hex()}")
        self.batch = batch
        self.index = index


class AlreadyChallenged(InvalidTransaction):
    def __init__(self, batch: bytes, index: int) -> None:
        super().__init__(f"the output of leaf {index} of batch {batch.hex()} has been asked for already")
        self.batch = batch
        self.index = index


class UnknownDemand(InvalidTransaction):
    """Never made, or over already."""

    def __init__(self, claim_id: bytes) -> None:
        super().__init__(f"nobody waits for claim {claim_id.hex()} to be opened")
        self.claim_id = claim_id


class AlreadyDemanded(InvalidTransaction):
    def __init__(self, claim_id: bytes) -> None:
        super().__init__(f"claim {claim_id.hex()} has been demanded already")
        self.claim_id = claim_id


class InvalidDemand(InvalidTransaction):
    def __init__(self, claim_id: bytes, reason: str) -> None:
        super().__init__(f"claim {claim_id.hex()}: {reason}")
        self.claim_id = claim_id


class AlreadyOpened(InvalidTransaction):
    def __init__(self, batch: bytes, index: int) -> None:
        super().__init__(f"leaf {index} of batch {batch.hex()} is open already")
        self.batch = batch
        self.index = index


class PendingTooHigh(InvalidTransaction):
    """More would wait for payout than the worker's bond makes safe."""

    def __init__(self, pending: int, limit: int) -> None:
        super().__init__(f"{pending} grains would be pending, the bond covers {limit}")
        self.pending = pending
        self.limit = limit


class InvalidMode(InvalidTransaction):
    """No mode, or not the one in which a channel settles."""

    def __init__(self, mode: str) -> None:
        super().__init__(f"mode {mode!r} is not one this can be settled in")
        self.mode = mode


class AlreadySaid(InvalidTransaction):
    """Each drawn verifier says one thing about a leaf."""

    def __init__(self, batch: bytes, index: int) -> None:
        super().__init__(f"the account has spoken about leaf {index} of batch {batch.hex()}, or was not asked")
        self.batch = batch
        self.index = index
