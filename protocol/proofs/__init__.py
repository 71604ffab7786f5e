"""Proof kinds: what backs a result, how it is checked, what it shows and what it does not.

`built_in` registers ours. A process that runs one model needs what is traced and asked of steps (`trace`, `steps`), and
none of the ledger and the certificates that the kinds bring along: so this imports nothing.
"""
