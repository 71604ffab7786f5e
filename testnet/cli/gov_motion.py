"""Motions as people write them, and read them."""

import json as json_library
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testnet.cli.arguments import parse_amount, parse_duration
from testnet.cli.output import CommandError, ExitCode, format_role
from testnet.cli.wallet import find_account

if TYPE_CHECKING:
    from protocol.ledger.feed_records import FeedTerms
    from protocol.ledger.governance_records import Enclave, Motion, ParameterChange, TreasuryGrant
    from protocol.ledger.state import State

FILE_BYTES_MAX = 64 * 1024


def read_motion(
    payer: Path, change: str, amount: str, to: str, parts: int, every: str, files: dict[str, Path | None], end_feed: str
) -> "Motion":
    """What options say, of which exactly one must say something. `files` are by option. Raises CommandError."""
    from protocol.ledger.governance_records import EnclaveListing, Motion

    trust, distrust, feed = files["--trust"], files["--distrust"], files["--feed"]
    given = [bool(change), bool(amount), trust is not None, distrust is not None, feed is not None, bool(end_feed)]
    if sum(given) != 1:
        hint = "use one of --set, --grant, --trust, --distrust, --feed, --end-feed"
        raise CommandError("usage", f"a proposal moves exactly one thing, not {sum(given)}", hint, ExitCode.USAGE)
    if change:
        return Motion(parameter=(_read_change(change),))
    if amount:
        return Motion(grant=(_read_grant(payer, amount, to, parts, every),))
    if feed is not None:
        return Motion(feed=(_read_feed(feed),))
    enclave = trust or distrust
    if enclave is not None:
        return Motion(enclave=(EnclaveListing(_read_enclave(enclave), int(trust is not None)),))
    return Motion(feed_end=(end_feed,))


def describe_motion(motion: "Motion", state: "State | None" = None) -> tuple[str, dict[str, Any]]:
    """A motion in words and for programs; with a state, also what a parameter is now."""
    from protocol.keys import format_account

    for change in motion.parameter:
        now = f" (now {getattr(state.params, change.name)})" if state is not None else ""
        return f"{change.name} = {change.value}{now}", {"parameter": change.name, "value": change.value}
    for grant in motion.grant:
        flow = "" if grant.parts == 1 else f" in {grant.parts} parts, one every {grant.part_ms / 1_000:g} s"
        to = format_account(grant.to)
        told = {"grant_grains": grant.amount, "to": to, "parts": grant.parts, "part_ms": grant.part_ms}
        return f"{format_role(grant.amount)} to {to}{flow}", told
    for listing in motion.enclave:
        verb = "trust" if listing.is_trusted else "trust no more"
        text = f"{verb} the enclave with PCR0 {listing.enclave.pcr0.hex()[:16]}…"
        return text, {"is_trusted": bool(listing.is_trusted), "enclave": describe_enclave(listing.enclave)}
    for terms in motion.feed:
        text = f"feed {terms.name}: {terms.source} {terms.address} every {terms.heartbeat_ms / 1_000:g} s"
        return text, {"feed": terms.name, "source": terms.source, "address": terms.address}
    return f"feed {motion.feed_end[0]} ends", {"feed_end": motion.feed_end[0]}


def describe_enclave(enclave: "Enclave") -> dict[str, str]:
    """As `rolemesh verify --measurements` reads one."""
    return {f"PCR{number}": getattr(enclave, f"pcr{number}").hex() for number in range(3)}


def _read_change(text: str) -> "ParameterChange":
    from protocol.ledger.governance_records import ParameterChange

    name, _, value = text.partition("=")
    if not name or not value.isascii() or not value.isdecimal() or len(value) > 19:
        hint = "write it like --set base_fee_min=150000; `rolemesh gov params` shows what there is"
        raise CommandError("bad_parameter", f"not a change: {text!r}", hint, ExitCode.USAGE)
    return ParameterChange(name, int(value))


def _read_grant(payer: Path, amount: str, to: str, parts: int, every: str) -> "TreasuryGrant":
    from protocol.ledger.governance_records import TreasuryGrant

    if not to or parts < 1 or (parts > 1) != bool(every):
        hint = "say --to ACCOUNT, and for a stream both --parts and --every"
        raise CommandError("usage", "a grant goes to an account, at once or in parts", hint, ExitCode.USAGE)
    part_ms = round(1_000 * parse_duration(every)) if every else 0
    return TreasuryGrant(find_account(to, payer), parse_amount(amount), parts, part_ms)


def _read_enclave(path: Path) -> "Enclave":
    from protocol.ledger.governance_records import Enclave
    from testnet.trust import read_measurements

    hint = 'write {"PCR0": "…", "PCR1": "…", "PCR2": "…"}, as `nitro-cli build-enclave` prints it'
    try:
        found = read_measurements(path)
    except (OSError, ValueError) as error:
        raise CommandError("bad_measurements", f"{path}: {error}", hint, ExitCode.USAGE) from error
    if len(found) != 1:
        raise CommandError(
            "bad_measurements", f"{path} has {len(found)} enclaves, a proposal one", hint, ExitCode.USAGE
        )
    return Enclave(**vars(next(iter(found))))


def _read_feed(path: Path) -> "FeedTerms":
    """The terms in a JSON file: the fields of `FeedTerms` that a registration has. Raises CommandError."""
    from protocol.codec import encode
    from protocol.errors import ProtocolError
    from protocol.keys import parse_account
    from protocol.ledger.feed_records import FeedTerms
    from protocol.ledger.feeds import RegisterFeed

    try:
        with path.open(encoding="utf-8") as file:
            told = json_library.loads(file.read(FILE_BYTES_MAX))
        told["allowed"] = tuple(parse_account(text) for text in told.get("allowed", ()))
        terms = FeedTerms(owner=b"", deposit=0, **told)
        encode(terms)  # the types and bounds
    except (OSError, ValueError, TypeError, AttributeError, ProtocolError) as error:
        names = ", ".join(item.name for item in fields(RegisterFeed))
        hint = f"write a JSON object with {names}; `rolemesh oracle show FEED --json` has one under `terms`"
        raise CommandError("bad_feed", f"{path} has no terms of a feed: {error}", hint, ExitCode.USAGE) from error
    return terms
