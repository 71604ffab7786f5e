"""Limits of the ledger that others keep as well: an engine reads these and needs nothing else of the ledger."""

ROWS_MAX = 64  # of one request
EVIDENCE_BYTES_MAX = 62 * 1024  # of one party to a dispute: fits one transaction
OBSERVERS_MAX = 31  # of one feed
CANDLES_PER_PAGE = 32
