"""Checks of a finished engine set: verify, score, bench."""
