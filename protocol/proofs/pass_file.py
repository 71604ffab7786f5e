"""A pass to an app: the holder's signed statement, with the ledger's proof of what was bought. Checked offline.

Whoever serves the app needs the genesis and the time. The ledger says, under its validators' signatures, what the
holder has bought; the holder says, under its account key, that whoever shows this may use it, and until when. Decision
0148.
"""

import base64
from typing import Annotated, ClassVar

from protocol.codec import decode, encode
from protocol.errors import BadSignature, InvalidProof, MalformedMessage, RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import Signer
from protocol.ledger.app_records import PassRecord
from protocol.ledger.apps import compute_pass_key, compute_period
from protocol.ledger.light import Trusted
from protocol.proofs.ledger_file import LedgerFile, decode_ledger_file, verify_ledger_file
from protocol.signing import sign, verify_signed
from protocol.types import AtMost, ChainId, Name, PublicKey, Signature, TimeMs, Whole

PASS_FILE_BYTES_MAX = 256 * 1024
VERSION = 1
TOKEN_PREFIX = "rmp_"
TOKEN_LETTERS_MAX = 400


class PassExpired(RemoteError):
    """Times in ms since 1970."""

    def __init__(self, until_ms: int, time_ms: int) -> None:
        super().__init__(f"the pass was good until {until_ms}, it is {time_ms}")
        self.until_ms = until_ms
        self.time_ms = time_ms


class WrongApp(RemoteError):
    def __init__(self, said: str, app: str) -> None:
        super().__init__(f"a pass to {said!r}, not to {app!r}")
        self.said = said
        self.app = app


@fast_dataclass(frozen=True)
class AppPass:
    """Whoever shows this may use the holder's pass that began at `since_ms`, until `until_ms`; by its account key."""

    DOMAIN: ClassVar[str] = "app-pass"

    chain: ChainId
    app: Name
    holder: PublicKey
    since_ms: TimeMs
    until_ms: TimeMs
    signature: Signature


@fast_dataclass(frozen=True)
class PassFile:
    version: Whole
    statement: AppPass
    ledger: Annotated[bytes, AtMost(PASS_FILE_BYTES_MAX // 2)]  # an encoded LedgerFile


@fast_dataclass(frozen=True)
class Right:
    """What a pass allows now: so many requests of the holder in `period`, which is over at `ends_ms`."""

    app: str
    holder: bytes
    since_ms: int
    period: int
    ends_ms: int
    quota: int


def sign_statement(chain: bytes, bought: PassRecord, signer: Signer, until_ms: int) -> AppPass:
    """The holder's word until `until_ms`, or the end of what was bought if that is sooner."""
    until_ms = min(until_ms, bought.until_ms)
    return sign(AppPass(chain, bought.app, bought.holder, bought.since_ms, until_ms, bytes(64)), signer)


def make_pass(chain: bytes, bought: PassRecord, ledger: LedgerFile, signer: Signer, until_ms: int) -> PassFile:
    """A pass until `until_ms`, or the end of what was bought if that is sooner."""
    return PassFile(VERSION, sign_statement(chain, bought, signer, until_ms), encode(ledger))


def decode_pass_file(data: bytes) -> PassFile:
    """Read a file. MalformedMessage for anything but the canonical bytes of one."""
    return decode(PassFile, data, PASS_FILE_BYTES_MAX)


def format_token(statement: AppPass) -> str:
    """The statement as a token, for those who have the ledger and need no proof of it: of letters, digits, - and _."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(encode(statement)).decode().rstrip("=")


def parse_token(text: str) -> AppPass:
    """The statement of a token, of which nothing is checked yet. MalformedMessage for what is none."""
    body = text.removeprefix(TOKEN_PREFIX)
    if body == text or len(text) > TOKEN_LETTERS_MAX or not text.isascii():
        raise MalformedMessage(f"a pass is a token that begins with {TOKEN_PREFIX}")
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise MalformedMessage(f"a pass is base64 after {TOKEN_PREFIX}") from error
    statement = decode(AppPass, data)
    if format_token(statement) != text:
        raise MalformedMessage("a pass is written in one way alone")
    return statement


def verify_pass(file: PassFile, trusted: Trusted, app: str, time_ms: int) -> Right:
    """What the pass allows at this time. RemoteError when it does not hold, PassExpired when it did."""
    said = file.statement
    if file.version != VERSION:
        raise InvalidProof(f"a pass of version {file.version}; this program reads version {VERSION}")
    shown = verify_ledger_file(decode_ledger_file(file.ledger), trusted)
    bought = shown.entries.get(("passes", compute_pass_key(app, said.holder)))
    return verify_statement(said, bought if isinstance(bought, PassRecord) else None, trusted.chain, app, time_ms)


def verify_statement(said: AppPass, bought: PassRecord | None, chain: bytes, app: str, time_ms: int) -> Right:
    """As `verify_pass`, with what the ledger has under the holder's pass to the app, if anything."""
    if said.chain != chain:
        raise InvalidProof(f"a pass on chain {said.chain.hex()}")
    if said.app != app:
        raise WrongApp(said.app, app)
    try:
        verify_signed(said, said.holder)
    except BadSignature as error:
        raise InvalidProof("the pass is not signed by its holder") from error
    # Before what was bought: the ledger forgets a pass soon after its end.
    if not said.since_ms <= time_ms < said.until_ms:
        raise PassExpired(said.until_ms, time_ms)
    if bought is None or said.since_ms != bought.since_ms:
        raise InvalidProof("the ledger does not show that the holder has bought this pass")
    if said.until_ms > bought.until_ms:
        raise InvalidProof(f"the pass says until {said.until_ms}, it was bought until {bought.until_ms}")
    period = compute_period(said.since_ms, bought.tier.period_ms, time_ms)
    ends_ms = min(said.until_ms, said.since_ms + (period + 1) * bought.tier.period_ms)
    return Right(app, said.holder, said.since_ms, period, ends_ms, bought.tier.quota)
