"""What the producer and the worker agree on: the message, the errors, the ledger, storage and settings."""

__version__ = "0.1.0"  # as in pyproject.toml; a worker may run from a folder that is not installed
