"""Why the ledger says no. Each error carries the numbers, amounts in grains, times in milliseconds since 1970."""

from protocol.content import format_cid
from protocol.errors import InvalidTransaction
from protocol.keys import format_account


class NotYet(InvalidTransaction):
    """Refused in this block, but a later one may take it: keep it until it expires."""


class WrongChainTransaction(InvalidTransaction):
    """Signed for another chain."""

    def __init__(self, chain: bytes, expected: bytes) -> None:
        super().__init__(f"is for chain {chain.hex()}, not for {expected.hex()}")
        self.chain = chain
        self.expected = expected


class ExpiredTransaction(InvalidTransaction):
    """Its time of validity is over."""

    def __init__(self, valid_until_ms: int, time_ms: int) -> None:
        super().__init__(f"was valid until {valid_until_ms}, the block is of {time_ms}")
        self.valid_until_ms = valid_until_ms
        self.time_ms = time_ms


class FeeTooLow(InvalidTransaction):
    def __init__(self, offered: int, need: int) -> None:
        super().__init__(f"offers a fee of {offered} grains, needs {need}")
        self.offered = offered
        self.need = need


class FeeBelowBase(NotYet):
    """Offers less than the base fee asks for now; a quieter ledger will take it."""

    def __init__(self, offered: int, need: int) -> None:
        super().__init__(f"offers a fee of {offered} grains, the base fee comes to {need} now")
        self.offered = offered
        self.need = need


class UnknownTransactionKind(InvalidTransaction):
    def __init__(self, kind: int) -> None:
        super().__init__(f"transaction kind {kind} is not known here")
        self.kind = kind


class MalformedBody(InvalidTransaction):
    """The body's bytes are not what its kind says."""


class InvalidSignature(InvalidTransaction):
    """A signature inside the transaction, or its own, does not fit."""

    def __init__(self, what: str, public: bytes) -> None:
        super().__init__(f"{what} is not signed by {public.hex()}")
        self.what = what
        self.public = public


class InvalidAmount(InvalidTransaction):
    """An amount this transaction cannot have."""

    def __init__(self, what: str, amount: int, need: int) -> None:
        super().__init__(f"{what} is {amount} grains, needs at least {need}")
        self.amount = amount
        self.need = need


class InvalidNode(InvalidTransaction):
    """A node record that cannot be made or changed like this."""


class UnknownNode(InvalidTransaction):
    def __init__(self, key: bytes) -> None:
        super().__init__(f"no node is registered for {format_account(key)}")
        self.key = key


class LimitReached(InvalidTransaction):
    """A table of the ledger is full."""

    def __init__(self, what: str, have: int, limit: int) -> None:
        super().__init__(f"{have} {what}, at most {limit} allowed")
        self.have = have
        self.limit = limit


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


class UnknownEpoch(InvalidTransaction):
    """The epoch's snapshot is not, or no longer, in the state."""

    def __init__(self, epoch: int, oldest: int, newest: int) -> None:
        super().__init__(f"epoch {epoch} is not kept; kept are {oldest} to {newest}")
        self.epoch = epoch
        self.oldest = oldest
        self.newest = newest


class TooFewCandidates(InvalidTransaction):
    """A committee never shrinks: with too few independent accounts there is none."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"{have} verifiers of other accounts than the worker's can be drawn, {need} are needed")
        self.have = have
        self.need = need


class InvalidEvidence(InvalidTransaction):
    """What was posted does not prove what it says."""


class AlreadyProven(InvalidTransaction):
    """A claim is proven wrong once."""

    def __init__(self, claim_id: bytes) -> None:
        super().__init__(f"claim {claim_id.hex()} has been proven wrong already")
        self.claim_id = claim_id


class EvidenceTooOld(InvalidTransaction):
    """Those who decided that height had done so too long ago to answer for it. Both are epochs."""

    def __init__(self, until: int, oldest: int) -> None:
        super().__init__(f"its validators decided until epoch {until}, the oldest that answer did until {oldest}")
        self.until = until
        self.oldest = oldest


class AlreadyGuilty(InvalidTransaction):
    """A validator is convicted once, and validates no more."""

    def __init__(self, account: bytes) -> None:
        super().__init__(f"validator {format_account(account)} has been convicted already")
        self.account = account


class InvalidOnion(InvalidTransaction):
    """An onion's number is above all its account had before."""

    def __init__(self, number: int, least: int) -> None:
        super().__init__(f"the onion has number {number}, the next may have {least}")
        self.number = number
        self.least = least


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


class UnknownLease(InvalidTransaction):
    """Never opened, or ended already."""

    def __init__(self, lease: bytes) -> None:
        super().__init__(f"there is no lease {lease.hex()}")
        self.lease = lease


class InvalidLease(InvalidTransaction):
    """A lease that cannot be opened or changed like this, or a word about it that is not the sender's to say now."""

    def __init__(self, lease: bytes, reason: str) -> None:
        super().__init__(f"lease {lease.hex()}: {reason}")
        self.lease = lease


class TooFewStores(InvalidTransaction):
    """A lease begins with as many replicas as it asks for."""

    def __init__(self, have: int, need: int, size_bytes: int, price: int) -> None:
        super().__init__(
            f"{have} storage nodes of other accounts than the payer's let {size_bytes} bytes for {price} grains a MiB "
            f"and hour, {need} are needed"
        )
        self.have = have
        self.need = need


class InvalidModel(InvalidTransaction):
    """What is registered contradicts itself or the ledger."""


class UnknownModel(InvalidTransaction):
    """The ledger has no such model, or has it as retired."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"the ledger has no model {format_cid(digest)} that is served")
        self.digest = digest


class NotYourModel(InvalidTransaction):
    """A name, or a model, of another account; those of genesis are nobody's."""

    def __init__(self, name: str, account: bytes) -> None:
        super().__init__(f"model {name!r} does not belong to account {format_account(account)}")
        self.name = name
        self.account = account


class UnknownFeed(InvalidTransaction):
    def __init__(self, name: str) -> None:
        super().__init__(f"the ledger has no feed {name!r} that is reported on")
        self.name = name


class NotYourFeed(InvalidTransaction):
    """A feed of another account; those of genesis are nobody's, those of workflows end with them."""

    def __init__(self, name: str, account: bytes) -> None:
        super().__init__(f"feed {name!r} does not belong to account {format_account(account)}")
        self.name = name
        self.account = account


class InvalidFeed(InvalidTransaction):
    """A feed, or a part in one, that there cannot be."""


class UnknownWorkflow(InvalidTransaction):
    def __init__(self, name: str) -> None:
        super().__init__(f"the ledger has no workflow {name!r} that goes on")
        self.name = name


class NotYourWorkflow(InvalidTransaction):
    def __init__(self, name: str, account: bytes) -> None:
        super().__init__(f"workflow {name!r} does not belong to account {format_account(account)}")
        self.name = name
        self.account = account


class InvalidWorkflow(InvalidTransaction):
    """Scheduled work that there cannot be."""


class InvalidProposal(InvalidTransaction):
    """Something the holders of stake cannot decide, or not so."""


class UnknownProposal(InvalidTransaction):
    def __init__(self, proposal: bytes) -> None:
        super().__init__(f"there is no proposal {proposal.hex()}")
        self.proposal = proposal


class VotingOver(InvalidTransaction):
    def __init__(self, proposal: bytes, phase: str) -> None:
        super().__init__(f"proposal {proposal.hex()} is not voted on any more: it is {phase}")
        self.proposal = proposal
        self.phase = phase


class AlreadyVoted(InvalidTransaction):
    """The stake behind the account, or some of it, has voted."""

    def __init__(self, proposal: bytes, account: bytes) -> None:
        super().__init__(f"stake of account {format_account(account)} has voted on proposal {proposal.hex()} already")
        self.proposal = proposal
        self.account = account


class InvalidStakeProof(InvalidTransaction):
    """A vote without stake, or with stake that the proposal's snapshot does not show."""


class InvalidReport(InvalidTransaction):
    """An oracle report that does not follow from its observations."""


class RoundNotOpen(NotYet):
    """The report is ahead of the header's time."""

    def __init__(self, round_number: int, current: int) -> None:
        super().__init__(f"round {round_number} is ahead of the block's round {current}")
        self.round_number = round_number
        self.current = current


class RoundOver(InvalidTransaction):
    """The round is reported already, or too long ago."""

    def __init__(self, round_number: int, oldest: int) -> None:
        super().__init__(f"round {round_number} is over, the oldest that can be reported is {oldest}")
        self.round_number = round_number
        self.oldest = oldest


class InsufficientBond(InvalidTransaction):
    """Less is bonded than the roles, or the withdrawal, ask for."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"has {have} grains bonded, needs {need}")
        self.have = have
        self.need = need


class SelfPayment(InvalidTransaction):
    """A channel from an account to itself."""

    def __init__(self, account: bytes) -> None:
        super().__init__(f"account {format_account(account)} would pay itself")
        self.account = account
