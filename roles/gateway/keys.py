"""API keys of a gateway: limits on what its account spends for whoever holds one, never private keys. Decided here.

A key reads `rmk_<id>_<secret>`, both in hex. The id names it in lists; of the secret, 256 random bits, only the sha256
is kept: there is nothing in it that a slower hash would protect.
"""

import hmac
import re
from dataclasses import dataclass

from protocol.content import compute_digest, format_cid
from protocol.ledger.model_records import ModelRecord
from roles.gateway.faults import Fault

PREFIX = "rmk_"
ID_BYTES, SECRET_BYTES = 6, 32
LABEL_LETTERS_MAX = 64
MODELS_MAX = 32
DAY_MS = 86_400_000
WINDOW_MS_MIN, WINDOW_MS_MAX = 1_000, 366 * DAY_MS
GRAINS_MAX = 2**63 - 1
_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})", re.ASCII)
_LABEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LABEL_LETTERS_MAX - 1}}}", re.ASCII)
_NOBODY = bytes(32)  # compared with where there is no such key, so that both take as long


@dataclass(frozen=True)
class KeyTerms:
    """What a key allows, in grains; 0 is no such limit, but one of the first two there is.

    `limit` is for good; `window_limit` for each stretch of `window_ms`, counted from 1970, so days are those of UTC.
    `fee_max` is for one request. `models` are names or CIDs, none for all.
    """

    label: str
    limit: int = 0
    window_limit: int = 0
    window_ms: int = DAY_MS
    fee_max: int = 0
    expires_ms: int = 0
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeyState:
    """A key and what it has spent. `held` is reserved by requests under way; the window began at `window_start_ms`."""

    id: str
    digest: bytes
    terms: KeyTerms
    made_ms: int
    revoked_ms: int = 0
    requests: int = 0
    spent: int = 0
    held: int = 0
    window_start_ms: int = 0
    window_spent: int = 0
    window_held: int = 0


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. `text` is what its holder gets, and nobody can find out again."""

    id: str
    text: str
    digest: bytes


def make_key(key_id: bytes, secret: bytes) -> NewKey:
    """The key of ID_BYTES and SECRET_BYTES random bytes."""
    return NewKey(key_id.hex(), f"{PREFIX}{key_id.hex()}_{secret.hex()}", compute_digest(secret))


def read_key(text: str) -> tuple[str, bytes] | None:
    """Id and digest of a key; None for what is none.

    >>> read_key("none"), read_key(make_key(bytes(6), bytes(32)).text)[0]
    (None, '000000000000')
    """
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], compute_digest(bytes.fromhex(found[2])))


def is_same_key(state: KeyState | None, digest: bytes) -> bool:
    """Whether the secret is that of the key, in the same time whatever differs."""
    known = _NOBODY if state is None else state.digest
    return hmac.compare_digest(known, digest) and state is not None


def verify_terms(terms: KeyTerms) -> None:
    """ValueError unless a key may have them."""
    if not _LABEL.fullmatch(terms.label):
        raise ValueError(
            f"a label has 1 to {LABEL_LETTERS_MAX} letters, digits, '_', '.' and '-': {terms.label[:80]!r}"
        )
    if not terms.limit and not terms.window_limit:
        raise ValueError("a key has a limit, in all or for a stretch of time")
    amounts = (terms.limit, terms.window_limit, terms.fee_max)
    if not all(0 <= amount <= GRAINS_MAX for amount in amounts):
        raise ValueError(f"a limit is at most {GRAINS_MAX} grains")
    if not WINDOW_MS_MIN <= terms.window_ms <= WINDOW_MS_MAX:
        raise ValueError("a stretch of time is a second to a year")
    if len(terms.models) > MODELS_MAX:
        raise ValueError(f"a key names at most {MODELS_MAX} models")


def verify_usable(state: KeyState, now_ms: int) -> None:
    """Fault 401 for a key that was taken back or is too old."""
    if state.revoked_ms:
        raise refuse_key("key_revoked", f"the key {state.terms.label!r} was revoked")
    if state.terms.expires_ms and now_ms >= state.terms.expires_ms:
        raise refuse_key("key_expired", f"the key {state.terms.label!r} has expired")


def is_usable(state: KeyState, now_ms: int) -> bool:
    """Whether a key counts, as far as time goes."""
    return not state.revoked_ms and not (state.terms.expires_ms and now_ms >= state.terms.expires_ms)


def refuse_key(code: str, reason: str) -> Fault:
    """The fault for whoever has no key that counts."""
    return Fault(401, code, reason)


def ask_for_key() -> Fault:
    """The fault for whoever shows no key where one is needed."""
    return refuse_key("missing_api_key", "this gateway asks for a key: `Authorization: Bearer rmk_…`")


def allows(terms: KeyTerms, record: ModelRecord) -> bool:
    """Whether a key may be used for a model."""
    names = (record.name, f"{record.name}@{record.version}", format_cid(record.digest))
    return not terms.models or any(name in terms.models for name in names)


def compute_hold(state: KeyState, wanted: int, now_ms: int) -> int:
    """Grains to reserve for a request that may cost `wanted`: as much, or what is left if that is less.

    Fault 402 when all is spent, 429 when the window's share is, or requests under way hold what is left.
    """
    terms = state.terms
    if terms.limit and state.spent >= terms.limit:
        reason = f"the key {terms.label!r} has spent {state.spent} of {terms.limit} grains"
        raise Fault(402, "key_limit_reached", reason)
    if terms.window_limit and state.window_spent >= terms.window_limit:
        ends_s = -(-(state.window_start_ms + terms.window_ms - now_ms) // 1_000)
        reason = (
            f"the key {terms.label!r} has spent {state.window_spent} of {terms.window_limit} grains; more in {ends_s} s"
        )
        raise Fault(429, "key_window_reached", reason, retry_s=ends_s)
    room = min(_list_rooms(state))
    if room <= 0:
        reason = f"requests under way hold what the key {terms.label!r} has left, {state.held} grains"
        raise Fault(429, "key_busy", reason)
    return min(wanted, terms.fee_max or wanted, room)


def find_window(terms: KeyTerms, now_ms: int) -> int:
    """When the window of a moment began.

    >>> find_window(KeyTerms("a", window_limit=1, window_ms=1_000), 12_345)
    12000
    """
    return now_ms - now_ms % terms.window_ms


def explain_too_dear(state: KeyState, hold: int, reason: str) -> Fault:
    """The fault when what a key has left was not enough for what the request costs."""
    if state.held:
        return Fault(429, "key_busy", f"{reason}: requests under way hold {state.held} grains of the key's")
    return Fault(402, "key_limit_reached", f"{reason}: the key {state.terms.label!r} has {hold} grains left")


def _list_rooms(state: KeyState) -> list[int]:
    terms = state.terms
    rooms = [terms.limit - state.spent - state.held] if terms.limit else []
    return rooms + ([terms.window_limit - state.window_spent - state.window_held] if terms.window_limit else [])
