"""The ledger: who owns, who works, what was settled. A pure function from state and block to state."""
