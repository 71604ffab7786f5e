"""Importing this registers our proof kinds; a user's module registers others with `registry.register_proof_kind`."""

from protocol.proofs.kinds import REEXEC, SIGNED, TRACE
from protocol.proofs.tee import TEE, TEE_SIMULATED
from protocol.registry import register_proof_kind

register_proof_kind(SIGNED)
register_proof_kind(REEXEC)
register_proof_kind(TEE)
register_proof_kind(TEE_SIMULATED)
register_proof_kind(TRACE)
