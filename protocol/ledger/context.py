"""What a transaction's rule is given besides the draft and its own body."""

from typing import Any

from protocol.errors import BadSignature
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.errors import InvalidSignature
from protocol.signing import verify_once, verify_signed


@fast_dataclass(frozen=True)
class TransactionContext:
    """`account` sent the transaction `id`. Without `check_signatures`, Ed25519 checks alone are skipped."""

    account: bytes
    id: bytes
    check_signatures: bool

    def verify_signed(self, statement: Any, public: bytes) -> None:
        """InvalidSignature unless the statement is signed by `public`."""
        if not self.check_signatures:
            return
        try:
            verify_signed(statement, public)
        except BadSignature as error:
            raise InvalidSignature(type(statement).__name__, public) from error

    def verify_bytes(self, what: str, public: bytes, data: bytes, signature: bytes) -> None:
        """InvalidSignature unless `signature` over `data` is by `public`."""
        if not self.check_signatures:
            return
        try:
            verify_once(public, data, signature)
        except BadSignature as error:
            raise InvalidSignature(what, public) from error
