"""Make every proof kind known: ours, and those of installed packages.

A package offers its own under the entry point group `rolemesh.proofs`: an object that is a `registry.ProofKind`.
"""

import importlib
from importlib.metadata import entry_points

from protocol.errors import LocalError
from protocol.proofs.context import EVIDENCE_BYTES_MAX
from protocol.registry import ProofKind, all_proof_kinds, register_proof_kind
from roles.config import ConfigError

ENTRY_POINTS = "rolemesh.proofs"
BUILT_IN = ("protocol.proofs.built_in", "roles.zk.kind")  # each registers its kinds when it is imported


def load_proof_kinds() -> tuple[ProofKind, ...]:
    """Every kind, by name. ConfigError when a package offers what is none, or under a name that is taken."""
    for name in BUILT_IN:
        importlib.import_module(name)
    for offered in entry_points(group=ENTRY_POINTS):
        hint = f"repair or remove the package that offers {offered.name!r} as {offered.value}"
        try:
            kind = offered.load()
            if not isinstance(kind.name, str) or not 0 <= kind.evidence_bytes_max <= EVIDENCE_BYTES_MAX:
                raise ConfigError(
                    f"proof kind {offered.name!r} has evidence of more than {EVIDENCE_BYTES_MAX} bytes", hint
                )
            kind.describe()
            register_proof_kind(kind)
        except (ImportError, AttributeError, TypeError, ValueError, LocalError) as error:
            raise ConfigError(f"proof kind {offered.name!r} cannot be loaded: {error}", hint) from error
    return all_proof_kinds()
