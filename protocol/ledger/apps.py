"""Apps: registered by their owner, used by whoever buys a pass or has the stake that a tier asks for.

A pass begins with a transaction and ends by expiry. What is paid reaches the owner, the treasury and the fire at once;
for the room that it takes on the ledger it burns something too, so that room is not to be had for nothing.
Whoever serves the app counts requests against the pass (`proofs.pass_file`) and reports them with the owner's share of
their fees; the ledger counts no more of them than the pass allows. Source: PROTOCOL, "Paying"; decisions 0147, 0156.
"""

import hashlib
import re
from dataclasses import replace
from typing import Annotated

from protocol.content import format_cid
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import format_account
from protocol.ledger.app_errors import (
    AppRetired,
    InvalidApp,
    InvalidPurchase,
    InvalidUse,
    NotYourApp,
    QuotaExceeded,
    StakeTooLow,
    UnknownApp,
)
from protocol.ledger.app_records import SERVERS_MAX, TIERS_MAX, AppRecord, AppUse, PassRecord, Tier
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import LimitReached
from protocol.ledger.flows import Party, Source
from protocol.ledger.money import split_lease_pay
from protocol.ledger.params import Params
from protocol.ledger.pools import compute_delegation_key
from protocol.ledger.records import DueItem
from protocol.ledger.state import State
from protocol.ledger.transactions import transaction
from protocol.signing import compute_domain_prefix
from protocol.types import BP, AtMost, Digest, Grains, Line, Name, PublicKey, ShareBp, TimeMs, Whole

PASS_KIND = 72
APP_KIND = 73
APPS_MAX = 1_000
PASSES_MAX = 100_000
ROOM_PER_DAY = 10_000_000  # grains that a pass burns for a day on the ledger: all the room there is costs 1,000 ROLE
PERIODS_MAX = 366  # paid ahead
PERIOD_MS_MIN = 1_000
DAY_MS = 24 * 3_600_000
PERIOD_MS_MAX = 366 * DAY_MS
QUOTA_MAX = 2**40
LATE_MS = 60_000  # after its end a pass can still be reported on
ITEMS_MAX = 64
VALIDATORS_MAX = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}", re.ASCII)
_APP, _PASS = compute_domain_prefix("app"), compute_domain_prefix("app-pass-key")
_UNUSED = AppUse()


@transaction(70)
@fast_dataclass(frozen=True)
class RegisterApp:
    """Puts an app on the ledger for a deposit; by its owner again, to change it. Passes stay as they were bought."""

    name: Name
    title: Line
    tiers: Annotated[tuple[Tier, ...], AtMost(TIERS_MAX)]
    servers: Annotated[tuple[PublicKey, ...], AtMost(SERVERS_MAX)]
    fee_bp: ShareBp


@transaction(71)
@fast_dataclass(frozen=True)
class RetireApp:
    """No more passes. The deposit goes back, and the app is forgotten, when the last one is over."""

    name: Name


@transaction(72)
@fast_dataclass(frozen=True)
class BuyPass:
    """Buys a pass, or renews the one that runs. `tier` repeats the app's own, so that nobody pays for other terms.

    Of a tier that asks for stake there is one period at a time; `validators` are those the holder has delegated to.
    """

    app: Name
    tier: Tier
    periods: Whole
    validators: Annotated[tuple[PublicKey, ...], AtMost(VALIDATORS_MAX)] = ()


@fast_dataclass(frozen=True)
class ReportedUse:
    """Requests under a pass, by what it is called: its holder and when it began. `fees` is what they have cost."""

    holder: PublicKey
    since_ms: TimeMs
    period: Whole
    model: Digest
    requests: Whole
    fees: Grains


@transaction(73)
@fast_dataclass(frozen=True)
class ReportUse:
    """Whoever serves an app says what its passes were used for, and pays the owner's share of the fees."""

    app: Name
    items: Annotated[tuple[ReportedUse, ...], AtMost(ITEMS_MAX)]


def compute_app_key(name: str) -> bytes:
    return hashlib.sha256(_APP + name.encode()).digest()


def compute_use_key(name: str, model: bytes) -> bytes:
    return compute_app_key(name) + model


def compute_pass_key(app: str, holder: bytes) -> bytes:
    """Where an account's pass to an app stands; there is at most one at a time."""
    return hashlib.sha256(_PASS + compute_app_key(app) + holder).digest()


def compute_period(since_ms: int, period_ms: int, time_ms: int) -> int:
    """Which period of a pass this time falls into.

    >>> compute_period(1_000, 500, 1_499), compute_period(1_000, 500, 1_500)
    (0, 1)
    """
    return (time_ms - since_ms) // period_ms


def compute_room(span_ms: int) -> int:
    """Grains that a pass burns for being on the ledger for so long, rounded up.

    >>> compute_room(86_400_000), compute_room(1)
    (10000000, 1)
    """
    return -(-ROOM_PER_DAY * span_ms // DAY_MS)


def compute_share(fees: int, fee_bp: int) -> int:
    """The owner's share of fees, rounded up: what is small is not free.

    >>> compute_share(1, 500), compute_share(1_000, 500)
    (1, 50)
    """
    return -(-fees * fee_bp // BP)


def choose_backing(state: State, holder: bytes) -> tuple[bytes, ...]:
    """Those a holder names when it shows its stake: the validators behind which it has put most, ties by account."""
    held = sorted((-item.amount, item.validator) for item in state.delegations.values() if item.delegator == holder)
    return tuple(validator for _, validator in held[:VALIDATORS_MAX])


def count_use(held: PassRecord | None, item: ReportedUse, time_ms: int) -> PassRecord:
    """A pass with what was reported on it counted. InvalidUse, or QuotaExceeded, when that cannot be."""
    if held is None or held.since_ms != item.since_ms:
        raise InvalidUse(f"account {format_account(item.holder)} has no such pass that began at {item.since_ms}")
    last_ms = min(time_ms, held.until_ms - 1)
    if item.period > compute_period(held.since_ms, held.tier.period_ms, last_ms):
        raise InvalidUse(f"period {item.period} of the pass has not begun, or is after its end")
    if not item.requests:
        raise InvalidUse("a use of no requests")
    counted = _count(held, item.period, item.requests)
    used = get_counted(counted, item.period)
    if used > held.tier.quota:
        raise QuotaExceeded(used, held.tier.quota)
    return counted


def get_counted(held: PassRecord, period: int) -> int:
    """Requests that were reported of a period, as far as the ledger still knows: of the last one and that before."""
    return {held.period: held.used, held.period - 1: held.used_before}.get(period, 0)


def apply_register_app(draft: Draft, context: TransactionContext, body: RegisterApp) -> None:
    reason = find_fault(body, draft.params)
    if reason:
        raise InvalidApp(reason)
    known = draft.apps.get(body.name)
    if known is not None:
        _verify_owner(body.name, known, context.account)
        changed = replace(known, title=body.title, tiers=body.tiers, servers=body.servers, fee_bp=body.fee_bp)
        draft.apps.put(body.name, changed)
        return
    if len(draft.apps) >= APPS_MAX:
        raise LimitReached("apps", len(draft.apps), APPS_MAX)
    deposit = draft.params.model_deposit
    draft.debit(context.account, deposit)
    draft.apps.put(body.name, AppRecord(context.account, body.title, body.tiers, body.servers, body.fee_bp, deposit))


def apply_retire_app(draft: Draft, context: TransactionContext, body: RetireApp) -> None:
    app = _get_app(draft, body.name)
    _verify_owner(body.name, app, context.account)
    draft.apps.put(body.name, replace(app, retired_ms=draft.time_ms))
    due_ms = max(app.until_ms, draft.time_ms) + LATE_MS
    draft.plan(DueItem(due_ms, APP_KIND, compute_app_key(body.name), waking=1, graced=0))


def apply_buy_pass(draft: Draft, context: TransactionContext, body: BuyPass) -> None:
    app, tier = _get_app(draft, body.app), body.tier
    if tier not in app.tiers:
        raise InvalidPurchase(f"app {body.app!r} has no tier {tier.name!r} of these terms")
    if not 1 <= body.periods <= (1 if tier.stake else PERIODS_MAX):
        raise InvalidPurchase(f"{body.periods} periods: 1 to {PERIODS_MAX} are sold at a time, for stake 1")
    key = compute_pass_key(body.app, context.account)
    held = draft.passes.get(key)
    if held is None and len(draft.passes) >= PASSES_MAX:
        raise LimitReached("passes", len(draft.passes), PASSES_MAX)
    bought = _extend(draft, context.account, body, held)
    _verify_stake(draft, context.account, body)
    cost = tier.price * body.periods
    kept_ms = draft.time_ms if held is None else max(draft.time_ms, held.until_ms + LATE_MS)
    room = compute_room(bought.until_ms + LATE_MS - kept_ms)
    draft.debit(context.account, cost + room)
    draft.burn(Source.APP, room, body.app.encode())
    sold = replace(app, sold=app.sold + body.periods, until_ms=max(app.until_ms, bought.until_ms))
    draft.apps.put(body.app, _earn(draft, body.app, replace(sold, income=app.income + cost), cost))
    draft.passes.put(key, bought)
    draft.plan(DueItem(bought.until_ms + LATE_MS, PASS_KIND, key, waking=0, graced=0))


def apply_report_use(draft: Draft, context: TransactionContext, body: ReportUse) -> None:
    app = draft.apps.get(body.app)
    if app is None:
        raise UnknownApp(body.app)
    if context.account not in (app.owner, *app.servers):
        raise NotYourApp(body.app, context.account)
    if not body.items:
        raise InvalidUse("a report of nothing")
    for item in body.items:
        _count_on_pass(draft, body.app, item)
        share = compute_share(item.fees, app.fee_bp)
        draft.debit(context.account, share)
        app = replace(app, requests=app.requests + item.requests, shared=app.shared + share)
        app = _earn(draft, body.app, app, share)
        _count_on_model(draft, body.app, item, share)
    draft.apps.put(body.app, app)


def forget_pass(draft: Draft, item: DueItem) -> None:
    """Due: a pass that is over, and on which nobody can report any more; not if it was renewed."""
    held = draft.passes.get(item.id)
    if held is not None and held.until_ms + LATE_MS <= draft.time_ms:
        draft.passes.delete(item.id)


def forget_app(draft: Draft, item: DueItem) -> None:
    """Due: a retired app leaves the ledger with what was counted of it, and its deposit goes back."""
    name = next((name for name, _ in draft.apps.items() if compute_app_key(name) == item.id), "")
    app = draft.apps.get(name)
    if app is None:
        return
    for key, _ in list(draft.app_uses.items_under(item.id)):
        draft.app_uses.delete(key)
    draft.apps.delete(name)
    draft.credit(app.owner, app.deposit)


def find_fault(body: RegisterApp, params: Params) -> str:
    """What of an app to be registered cannot be; empty when nothing is wrong."""
    if not _NAME.fullmatch(body.name):
        return f"a name is small letters, digits, dots, dashes and underscores, at most 48, not {body.name!r}"
    if not body.title.strip() or not body.title.isprintable():
        return "an app has a title, of one line"
    if not body.tiers or len({tier.name for tier in body.tiers}) != len(body.tiers):
        return "an app has tiers, each of another name"
    if len(set(body.servers)) != len(body.servers):
        return "an account is named twice among the servers"
    return next((reason for reason in (_find_tier_fault(tier, params) for tier in body.tiers) if reason), "")


def _find_tier_fault(tier: Tier, params: Params) -> str:
    what = f"tier {tier.name!r}"
    if not tier.name or not tier.name.isprintable():
        return "a tier has a name"
    if bool(tier.price) == bool(tier.stake):
        return f"{what} asks for a price or for stake, one of them"
    # Stake that leaves is locked for so long: what has backed one pass backs no second one before that is over.
    longest = min(PERIOD_MS_MAX, params.unbonding_ms) if tier.stake else PERIOD_MS_MAX
    if not PERIOD_MS_MIN <= tier.period_ms <= longest:
        return f"a period of {what} is {PERIOD_MS_MIN} to {longest} ms, not {tier.period_ms}"
    if tier.stake and tier.stake < params.delegation_min:
        return f"{what} asks for {params.delegation_min} grains of stake at least, not {tier.stake}"
    if not 1 <= tier.quota <= QUOTA_MAX:
        return f"{what} allows 1 to {QUOTA_MAX} requests a period, not {tier.quota}"
    return ""


def _get_app(draft: Draft, name: str) -> AppRecord:
    app = draft.apps.get(name)
    if app is None:
        raise UnknownApp(name)
    if app.retired_ms:
        raise AppRetired(name)
    return app


def _verify_owner(name: str, app: AppRecord, account: bytes) -> None:
    if app.retired_ms:
        raise AppRetired(name)
    if app.owner != account:
        raise NotYourApp(name, account)


def _extend(draft: Draft, holder: bytes, body: BuyPass, held: PassRecord | None) -> PassRecord:
    """The pass as it is after this purchase. One that runs goes on, with what was used of it."""
    tier, now_ms = body.tier, draft.time_ms
    if held is None or held.until_ms <= now_ms:
        return PassRecord(body.app, holder, tier, now_ms, now_ms + body.periods * tier.period_ms)
    if held.tier != tier:
        raise InvalidPurchase(f"a pass of tier {held.tier.name!r}, as it was then, runs until {held.until_ms}")
    # What stake has been shown now vouches for a period from now on.
    until_ms = now_ms + tier.period_ms if tier.stake else held.until_ms + body.periods * tier.period_ms
    if until_ms > now_ms + PERIODS_MAX * tier.period_ms:
        raise InvalidPurchase(f"a pass is paid for {PERIODS_MAX} periods ahead at most")
    return replace(held, until_ms=until_ms)


def _verify_stake(draft: Draft, holder: bytes, body: BuyPass) -> None:
    if not body.tier.stake:
        return
    if len(set(body.validators)) != len(body.validators):
        raise InvalidPurchase("a validator is named twice")
    node = draft.nodes.get(holder)
    behind = [draft.delegations.get(compute_delegation_key(item, holder)) for item in body.validators]
    have = (node.bond if node is not None else 0) + sum(item.amount for item in behind if item is not None)
    if have < body.tier.stake:
        raise StakeTooLow(have, body.tier.stake)


def _earn(draft: Draft, name: str, app: AppRecord, amount: int) -> AppRecord:
    """Divide what is paid to an app as a lease's pay is: PROTOCOL gives both the same shares."""
    owner, treasury, burn = split_lease_pay(amount, draft.params)
    subject = name.encode()
    draft.earn(Source.APP, Party.OWNER, app.owner, owner, subject)
    draft.fund(Source.APP, treasury, subject)
    draft.burn(Source.APP, burn, subject)
    return replace(app, earned=app.earned + owner)


def _count_on_pass(draft: Draft, app: str, item: ReportedUse) -> None:
    key = compute_pass_key(app, item.holder)
    draft.passes.put(key, count_use(draft.passes.get(key), item, draft.time_ms))


def _count(held: PassRecord, period: int, requests: int) -> PassRecord:
    """The pass with more requests counted, in the period that was reported last, a later one, or the one before."""
    if period == held.period:
        return replace(held, used=held.used + requests)
    if period > held.period:
        before = held.used if period == held.period + 1 else 0
        return replace(held, period=period, used=requests, used_before=before)
    if period == held.period - 1:
        return replace(held, used_before=held.used_before + requests)
    raise InvalidUse(f"period {period} is too long ago, {held.period} has been reported")


def _count_on_model(draft: Draft, app: str, item: ReportedUse, share: int) -> None:
    if draft.models.get(item.model) is None:
        raise InvalidUse(f"the ledger knows no model {format_cid(item.model)}")
    key = compute_use_key(app, item.model)
    known = draft.app_uses.get(key) or _UNUSED
    draft.app_uses.put(key, AppUse(known.requests + item.requests, known.shared + share))
