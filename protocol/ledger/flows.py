"""What a block paid, to whom and for what: told by the rules that pay, beside the state and outside its root.

Of an inference all four parts are told when its fee is divided, also where a window still holds them back: nothing
takes them away again. So what flows to the treasury and the fire is what they and `pending` have more of, less grants.
"""

from enum import StrEnum

from protocol.fast_dataclass import fast_dataclass


class Source(StrEnum):
    """What is paid for."""

    TRANSACTION = "transaction"  # base fees and tips
    INFERENCE = "inference"
    LEASE = "lease"
    APP = "app"
    ANSWER = "answer"  # what somebody was asked for in public
    STAKE = "stake"  # slashes and penalties
    BOND = "bond"  # of challengers that were wrong
    DEPOSIT = "deposit"  # of proposals that were vetoed or found no quorum
    REWARD = "reward"  # what rounding leaves of validators' rewards
    GRANT = "grant"  # the subject is the proposal
    GENESIS = "genesis"  # what vests


class Party(StrEnum):
    """Who gets it: a role, or one of those without."""

    INFERENCE = "inference"
    VERIFIER = "verifier"
    VALIDATOR = "validator"  # with whoever delegates to it
    STORAGE = "storage"
    OWNER = "owner"  # of an app
    REPORTER = "reporter"
    GRANTEE = "grantee"
    HOLDER = "holder"
    TREASURY = "treasury"
    BURN = "burn"


@fast_dataclass(frozen=True)
class Flow:
    """`amount` grains to a party. `subject` is what it was about: a model's digest, a proposal's id, an app's name.

    Of a batch, whose models the ledger does not know, it is the id of the batch. It is empty where there is no such
    thing.
    """

    source: Source
    party: Party
    amount: int
    account: bytes = b""  # empty for the treasury and the fire
    subject: bytes = b""
