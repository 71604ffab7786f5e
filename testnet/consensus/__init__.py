"""Validators with their ledger in virtual time, by the thousand seeds: `rolemesh sim --seeds`."""
