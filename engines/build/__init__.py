"""Stages to files to a manifest: building an engine set."""
