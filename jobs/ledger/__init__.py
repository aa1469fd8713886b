"""The ledger: the state of every job, its queue messages, and their repair, in Redis."""
