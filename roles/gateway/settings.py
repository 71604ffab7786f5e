"""What the headers of a request ask for: how its answer is checked, and what it may cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.jobs import Mode
from roles.gateway.faults import Fault

VERIFY_HEADER, FEE_HEADER = "X-Verify", "X-Max-Fee"
FEE_MAX = 2**63 - 1  # grains; all there can be
# The header's words, and the modes' own names.
MODES: Mapping[str, Mode] = {
    "none": Mode.PRIVATE,
    "spot": Mode.BATCH,
    "quorum": Mode.INDIVIDUAL,
} | {str(mode): mode for mode in Mode}


@dataclass(frozen=True)
class Settings:
    """`mode` says when the answer is checked; `max_fee` is in grains, None for what is usual."""

    mode: Mode = Mode.INDIVIDUAL
    max_fee: int | None = None


def read_settings(headers: Mapping[str, str]) -> Settings:
    """The settings of a request. Fault 400 for words and numbers that are none; `headers` ignores case, or is lower.

    >>> read_settings({"x-verify": "spot", "x-max-fee": "5000000"})
    Settings(mode=<Mode.BATCH: 'batch'>, max_fee=5000000)
    """
    verify = headers.get(VERIFY_HEADER.lower(), "quorum").strip()
    mode = MODES.get(verify)
    if mode is None:
        hint = "proofs of kind zk are added to a receipt afterwards; " if verify == "zk" else ""
        raise Fault(400, "bad_header", f"{VERIFY_HEADER} {verify[:40]!r}: {hint}use one of {', '.join(MODES)}")
    return Settings(mode, _read_fee(headers.get(FEE_HEADER.lower())))


def _read_fee(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= FEE_MAX):
        reason = f"{FEE_HEADER} {text[:40]!r} is no whole number of grains (1 ROLE is 1,000,000,000 grains)"
        raise Fault(400, "bad_header", reason)
    return int(text)
