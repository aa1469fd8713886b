"""What the producer and the worker agree on: the message, the errors, the ledger, storage and settings."""
