"""The registry of feeds: what is measured, by which rules, and who observes it.

Nobody observes a feed against its will: an oracle joins, and from then on answers for it. Silence and readings far from
the others' cost it quality (`oracle`); two readings for one position, both signed, cost stake.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from protocol.candles import LEVELS, PAGES, compute_feed_key, compute_page_key
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import format_node
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import ORACLE, wake_epoch_end
from protocol.ledger.errors import InvalidEvidence, LimitReached
from protocol.ledger.feed_errors import InvalidFeed, NotYourFeed, UnknownFeed
from protocol.ledger.feed_records import FeedState, FeedTerms, Observer
from protocol.ledger.limits import OBSERVERS_MAX
from protocol.ledger.params import DELAY_MS_MAX, Params
from protocol.ledger.records import DueItem, EpochSnapshot
from protocol.ledger.staking import slash
from protocol.ledger.state import State
from protocol.ledger.transactions import SignedObservation, transaction
from protocol.types import BP, AtMost, Line, Name, PublicKey, ShareBp, UpTo, Whole

FEED_KIND = 64
OBSERVER_KIND = 65
FEEDS_MAX = 256
DECIMALS_MAX = 12
HEARTBEAT_MS_MIN = 1_000
HEARTBEAT_MS_MAX = 24 * 3_600_000
OUTLIER_BP_MIN = 100  # so that no feed is a trap for those who read honestly
GENESIS_DECIMALS = 6
GENESIS_OUTLIER_BP = 2_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,47}", re.ASCII)
_NEVER = FeedState(0, 0, 0, 0, 0, 0)


class FeedSource(StrEnum):
    """Where a feed's values come from. Which file or command that is, each observer's operator says."""

    HTTP_JSON = "http-json"  # the number at `path` in the JSON document at `address`
    REPLAY = "replay"  # a recorded series, CSV (`path` is a column) or JSON lines
    COMMAND = "command"  # what a program prints
    WORKFLOW = "workflow"  # the ledger itself: results of scheduled work


@transaction(60)
@fast_dataclass(frozen=True)
class RegisterFeed:
    """Puts a feed on the ledger, for good as it is. The fields are those of `FeedTerms`."""

    name: Name
    source: Name
    address: Line
    path: Line
    decimals: Whole
    heartbeat_ms: Whole
    deviation_bp: ShareBp
    outlier_bp: ShareBp
    jump_bp: ShareBp
    observers_min: Whole
    age_ms_max: Whole
    allowed: Annotated[tuple[PublicKey, ...], AtMost(OBSERVERS_MAX)]


@transaction(61)
@fast_dataclass(frozen=True)
class RetireFeed:
    """No more reports. History and deposit stay until its observers have answered for what they said."""

    name: Name


@transaction(62)
@fast_dataclass(frozen=True)
class ObserveFeed:
    """The account's oracle observes a feed from the next round on, or no more."""

    name: Name
    observes: Annotated[int, UpTo(1)]


@transaction(63)
@fast_dataclass(frozen=True)
class AccuseObserver:
    """Two observations of one observer for one position of a feed. The reporter's reward is a part of the slash."""

    first: SignedObservation
    second: SignedObservation


def build_genesis_terms(name: str, params: Params) -> FeedTerms:
    """The terms of a feed of genesis: heartbeats alone, by any oracle, in millionths."""
    return FeedTerms(
        name=name,
        owner=b"",
        deposit=0,
        source=FeedSource.HTTP_JSON,
        address="",
        path="",
        decimals=GENESIS_DECIMALS,
        heartbeat_ms=params.oracle_heartbeat_ms,
        deviation_bp=0,
        outlier_bp=GENESIS_OUTLIER_BP,
        jump_bp=0,
        observers_min=1,
        age_ms_max=(params.oracle_rounds_late + 1) * params.oracle_heartbeat_ms,
        allowed=(),
    )


def is_name(text: str) -> bool:
    """Whether a feed may be called this."""
    return _NAME.fullmatch(text) is not None


def compute_observer_key(feed: str, account: bytes) -> bytes:
    return compute_feed_key(feed) + account


def compute_quorum(observers: int, observers_min: int) -> int:
    """2f + 1 observations, f being how many of the feed's observers may lie; never fewer than its terms ask for.

    >>> [compute_quorum(observers, 1) for observers in (1, 3, 4, 7, 31)]
    [1, 1, 3, 5, 21]
    """
    return max(2 * (max(observers - 1, 0) // 3) + 1, observers_min)


def get_observers(state: State, terms: FeedTerms, round_number: int) -> dict[bytes, bytes]:
    """As `list_observers`, of a state."""
    return list_observers(state.observers.get, state.get_epoch(state.epoch), terms, round_number)


def list_observers(
    get_observer: Callable[[bytes], Observer | None],
    snapshot: EpochSnapshot | None,
    terms: FeedTerms,
    round_number: int,
) -> dict[bytes, bytes]:
    """Who observes a feed in a round, being an oracle of the epoch: account by node key, in order of node keys.

    `get_observer` gives an entry of the table of observers.
    """
    start_ms = round_number * terms.heartbeat_ms
    present: dict[bytes, bytes] = {}
    for oracle in snapshot.get_candidates(ORACLE) if snapshot is not None else ():
        observer = get_observer(compute_observer_key(terms.name, oracle.account))
        if observer is not None and not observer.left_ms and observer.since_ms <= start_ms:
            present[oracle.node] = oracle.account
    return dict(sorted(present.items()))


def is_beyond(reference: int, value: int, share_bp: int) -> bool:
    """Whether a value is farther than this share of a reference from it. From nought everything else is.

    >>> is_beyond(1_000, 1_050, 500), is_beyond(1_000, 1_051, 500), is_beyond(-1_000, -1_050, 500)
    (False, True, False)
    """
    return abs(value - reference) * BP > share_bp * abs(reference)


def is_stale(terms: FeedTerms, feed: FeedState, time_ms: int) -> bool:
    """Whether a feed has no value that may be used at this time."""
    return not feed.observers or time_ms - feed.observed_ms > terms.age_ms_max


def get_feed(draft: Draft, name: str) -> tuple[FeedTerms, FeedState]:
    """UnknownFeed for one that is not there, or retired."""
    terms = draft.feed_terms.get(name)
    if terms is None or terms.retired_ms:
        raise UnknownFeed(name)
    return terms, draft.feeds.get(name) or _NEVER


def apply_register_feed(draft: Draft, context: TransactionContext, body: RegisterFeed) -> None:
    reason = find_fault(body)
    if reason:
        raise InvalidFeed(reason)
    deposit = draft.params.model_deposit
    draft.debit(context.account, deposit)
    put_feed(draft, FeedTerms(owner=context.account, deposit=deposit, **vars(body)))


def put_feed(draft: Draft, terms: FeedTerms) -> None:
    """A feed begins. InvalidFeed for a name that is taken, LimitReached for one too many."""
    if draft.feed_terms.get(terms.name) is not None:
        raise InvalidFeed(f"the ledger has a feed {terms.name!r} already")
    if len(draft.feed_terms) >= FEEDS_MAX:
        raise LimitReached("feeds", len(draft.feed_terms), FEEDS_MAX)
    draft.feed_terms.put(terms.name, terms)
    draft.feeds.put(terms.name, _NEVER)


def apply_retire_feed(draft: Draft, context: TransactionContext, body: RetireFeed) -> None:
    terms, _ = get_feed(draft, body.name)
    if terms.owner != context.account or terms.source == FeedSource.WORKFLOW:
        raise NotYourFeed(body.name, context.account)
    retire_feed(draft, terms)


def retire_feed(draft: Draft, terms: FeedTerms) -> None:
    """A feed ends; it is forgotten when nobody has to answer for it any more."""
    draft.feed_terms.put(terms.name, replace(terms, retired_ms=draft.time_ms))
    due_ms = draft.time_ms + _compute_answer_ms(terms, draft.params)
    draft.plan(DueItem(due_ms, FEED_KIND, compute_feed_key(terms.name), waking=1, graced=0))


def apply_observe_feed(draft: Draft, context: TransactionContext, body: ObserveFeed) -> None:
    terms, _ = get_feed(draft, body.name)
    key = compute_observer_key(terms.name, context.account)
    known = draft.observers.get(key)
    is_observer = known is not None and not known.left_ms
    if bool(body.observes) == is_observer:
        raise InvalidFeed(f"the account {'observes' if is_observer else 'does not observe'} {terms.name!r} already")
    if known is not None and is_observer:
        draft.observers.put(key, replace(known, left_ms=draft.time_ms))
        due_ms = draft.time_ms + _compute_answer_ms(terms, draft.params)
        draft.plan(DueItem(due_ms, OBSERVER_KIND, _compute_leaving_id(key), waking=0, graced=0))
        return
    _verify_joining(draft, context, terms, known)
    since_ms = draft.time_ms if known is None else known.since_ms
    draft.observers.put(key, Observer(context.account, since_ms))


def apply_accuse_observer(draft: Draft, context: TransactionContext, body: AccuseObserver) -> None:
    """Slash whoever signed two readings for one position, and take it off the feed: each joining answers once."""
    first, second = body.first, body.second
    position = first.feed, first.round, first.sequence, first.observer
    if position != (second.feed, second.round, second.sequence, second.observer):
        raise InvalidEvidence("the observations are not of one observer and position")
    if (first.value, first.time_ms) == (second.value, second.time_ms):
        raise InvalidEvidence("the observations say the same")
    terms = draft.feed_terms.get(first.feed)
    owner = draft.node_owners.get(first.observer)
    if terms is None or owner is None:
        raise InvalidEvidence(f"the ledger knows no feed {first.feed!r}, or no node {format_node(first.observer)}")
    key = compute_observer_key(terms.name, owner.account)
    observer = draft.observers.get(key)
    start_ms = first.round * terms.heartbeat_ms
    if observer is None or start_ms < observer.since_ms or 0 < observer.left_ms <= start_ms:
        raise InvalidEvidence(f"the account did not observe {terms.name!r} in round {first.round}")
    if draft.time_ms > start_ms + _compute_answer_ms(terms, draft.params):
        raise InvalidEvidence(f"round {first.round} is too long ago")
    context.verify_signed(first, first.observer)
    context.verify_signed(second, second.observer)
    draft.observers.delete(key)
    slash(draft, owner.account, context.account, draft.params.vote_slash_bp)
    wake_epoch_end(draft)


def forget_feed(draft: Draft, item: DueItem) -> None:
    """Due: a retired feed leaves the ledger with all its history, and its deposit goes back."""
    name = next((name for name, _ in draft.feed_terms.items() if compute_feed_key(name) == item.id), "")
    terms = draft.feed_terms.get(name)
    if terms is None:
        return
    for key, _ in list(draft.observers.items_under(item.id)):
        draft.observers.delete(key)
    for key in (compute_page_key(name, level, slot) for level in range(LEVELS) for slot in range(PAGES)):
        if draft.candles.get(key) is not None:
            draft.candles.delete(key)
    draft.feeds.delete(name)
    draft.feed_terms.delete(name)
    if draft.workflows.get(item.id) is not None:
        draft.workflows.delete(item.id)
    draft.credit(terms.owner, terms.deposit)


def forget_observer(draft: Draft, item: DueItem) -> None:
    """Due: who has left a feed does not answer for it any more, unless it has come back meanwhile."""
    for key, observer in list(draft.observers.items()):
        if observer.left_ms and _compute_leaving_id(key) == item.id:
            terms = draft.feed_terms.get(_find_name(draft, key))
            until_ms = observer.left_ms + (_compute_answer_ms(terms, draft.params) if terms is not None else 0)
            if draft.time_ms >= until_ms:
                draft.observers.delete(key)


def _compute_leaving_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _find_name(draft: Draft, key: bytes) -> str:
    return next((name for name, _ in draft.feed_terms.items() if key.startswith(compute_feed_key(name))), "")


def _compute_answer_ms(terms: FeedTerms, params: Params) -> int:
    """How long after a round begins its observations can be held against who signed them."""
    return terms.heartbeat_ms + params.epoch_ms * params.evidence_epochs


def _verify_joining(draft: Draft, context: TransactionContext, terms: FeedTerms, known: Observer | None) -> None:
    node = draft.nodes.get(context.account)
    if terms.source == FeedSource.WORKFLOW:
        raise InvalidFeed(f"{terms.name!r} holds results of a workflow: nobody observes it")
    if node is None or ORACLE not in node.roles or node.bond < draft.params.get_bond_min(ORACLE):
        raise InvalidFeed("only a bonded oracle observes a feed")
    if terms.allowed and context.account not in terms.allowed:
        raise InvalidFeed(f"{terms.name!r} names its observers, and this account is none of them")
    observers = sum(not item.left_ms for _, item in draft.observers.items_under(compute_feed_key(terms.name)))
    held = sum(1 for _ in draft.observers.items_under(compute_feed_key(terms.name)))
    if observers >= OBSERVERS_MAX or (known is None and held >= 2 * OBSERVERS_MAX):
        raise LimitReached(f"observers of {terms.name}", observers, OBSERVERS_MAX)


def find_fault(body: RegisterFeed | FeedTerms) -> str:
    """What of a feed to be registered cannot be; empty when nothing is wrong."""
    observed = (FeedSource.HTTP_JSON, FeedSource.REPLAY, FeedSource.COMMAND)
    if not is_name(body.name):
        return f"a name is letters, digits, dots, dashes and underscores, at most 48, not {body.name!r}"
    if body.source not in observed:
        return f"a source is one of {', '.join(observed)}, not {body.source!r}"
    if body.source == FeedSource.HTTP_JSON and not body.address.startswith(("http://", "https://")):
        return f"{body.address!r} is no http or https address"
    if body.decimals > DECIMALS_MAX:
        return f"decimals are 0 to {DECIMALS_MAX}, not {body.decimals}"
    if not HEARTBEAT_MS_MIN <= body.heartbeat_ms <= HEARTBEAT_MS_MAX:
        return f"a heartbeat is {HEARTBEAT_MS_MIN} to {HEARTBEAT_MS_MAX} ms, not {body.heartbeat_ms}"
    if not HEARTBEAT_MS_MIN <= body.age_ms_max <= DELAY_MS_MAX:
        return f"an age is at least {HEARTBEAT_MS_MIN} ms, not {body.age_ms_max}"
    if not 1 <= body.observers_min <= OBSERVERS_MAX:
        return f"a report needs 1 to {OBSERVERS_MAX} observers, not {body.observers_min}"
    if 0 < body.outlier_bp < OUTLIER_BP_MIN:
        return f"an outlier is {OUTLIER_BP_MIN} basis points off at least, not {body.outlier_bp}"
    if 0 < body.jump_bp <= body.deviation_bp:
        return f"a jump of {body.jump_bp} basis points would hold back what deviates by {body.deviation_bp}"
    if body.allowed and not body.observers_min <= len(set(body.allowed)) == len(body.allowed):
        return f"{len(body.allowed)} observers are named, {body.observers_min} different ones are needed"
    return ""
