"""What the ledger remembers of apps, of the passes to them, and of their use."""

from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.types import AtMost, Grains, Line, Name, PublicKey, ShareBp, TimeMs, Whole

TIERS_MAX = 8
SERVERS_MAX = 16


@fast_dataclass(frozen=True)
class Tier:
    """A way to have a pass: for `price` a period, or for having `stake`; one of them is 0.

    `quota` is how many requests a period allows.
    """

    name: Name
    price: Grains
    stake: Grains
    period_ms: Whole
    quota: Whole


@fast_dataclass(frozen=True)
class AppRecord:
    """An app, and what has come of it.

    `servers` are accounts that serve it beside the owner. `fee_bp` is the share of what requests under a pass cost that
    they owe it. `until_ms` is the end of its last pass. `income` has been paid for `sold` periods, `shared` as shares
    of fees for `requests`; the owner has had `earned` out of both.
    """

    owner: PublicKey
    title: Line
    tiers: Annotated[tuple[Tier, ...], AtMost(TIERS_MAX)]
    servers: Annotated[tuple[PublicKey, ...], AtMost(SERVERS_MAX)]
    fee_bp: ShareBp
    deposit: Grains
    retired_ms: TimeMs = 0
    until_ms: TimeMs = 0
    sold: Whole = 0
    income: Grains = 0
    requests: Whole = 0
    shared: Grains = 0
    earned: Grains = 0


@fast_dataclass(frozen=True)
class PassRecord:
    """What a holder has bought, by the tier as it was then. Periods are counted from `since_ms`, the first being 0.

    `used` requests of `period`, the latest that was reported, and `used_before` of the one before it are counted.
    """

    app: Name
    holder: PublicKey
    tier: Tier
    since_ms: TimeMs
    until_ms: TimeMs
    period: Whole = 0
    used: Whole = 0
    used_before: Whole = 0


@fast_dataclass(frozen=True)
class AppUse:
    """Requests of one app to one model, and the shares of their fees that were paid."""

    requests: Whole = 0
    shared: Grains = 0
