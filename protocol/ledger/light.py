"""A light client: follows certified headers from genesis, and knows at any height who may decide the next one.

It holds neither blocks nor states. Validators change only in headers that say so, and such a header is decided by the
old ones; their vote keys alone change by restarts too, which their accounts sign. Following those, in order, is enough.
Whoever decides a height after leaving the set could deceive it; that costs their stake only while it is bonded, so a
client follows more often than unbonding takes.
"""

from dataclasses import replace

from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import (
    Certificate,
    Header,
    InvalidCertificate,
    Validator,
    ValidatorSet,
    compute_validators_digest,
    get_validators,
    verify_decided,
)
from protocol.ledger.genesis import Genesis, build_state
from protocol.ledger.restart import StandsElsewhere, verify_seated
from protocol.ledger.restart_terms import Restart


@fast_dataclass(frozen=True)
class Trusted:
    """What a client has come to believe: who decides the heights after `height`, until a header says otherwise."""

    chain: bytes
    height: int
    validators: tuple[Validator, ...]
    generation: int = 0  # of the newest restart among what led here


@fast_dataclass(frozen=True)
class Handover:
    """A decided header that names new validators, and these."""

    header: Header
    certificate: Certificate
    validators: ValidatorSet


def trust_genesis(genesis: Genesis) -> Trusted:
    """Where a client begins. ValueError for a genesis no ledger could start from."""
    state = build_state(genesis)
    return Trusted(state.chain, 0, get_validators(state))


def verify_header(trusted: Trusted, header: Header, certificate: Certificate) -> None:
    """InvalidCertificate unless the trusted validators have decided this header, of a later height."""
    if header.chain != trusted.chain or header.height <= trusted.height:
        raise InvalidCertificate(f"header {header.height} does not follow height {trusted.height} of this chain")
    verify_decided(certificate, header, trusted.validators)


def follow(trusted: Trusted, handover: Handover) -> Trusted:
    """What to believe after a change of validators. InvalidCertificate unless the old ones have decided it."""
    verify_header(trusted, handover.header, handover.certificate)
    validators = handover.validators.validators
    if compute_validators_digest(validators) != handover.header.next_validators:
        raise InvalidCertificate(f"header {handover.header.height} hands over to other validators")
    return replace(trusted, height=handover.header.height, validators=validators)


def follow_restart(trusted: Trusted, restart: Restart) -> Trusted:
    """What to believe after a restart. InvalidRestart unless a quorum of the validators' accounts has signed it.

    That it stands on a decided block is those accounts' word, as it is that they decide by other keys now.
    """
    height = restart.terms.height
    if height < trusted.height:
        raise StandsElsewhere("height", height, trusted.height)
    validators = verify_seated(restart, trusted.chain, trusted.validators, trusted.generation)
    return replace(trusted, height=height, validators=validators, generation=restart.terms.generation)
