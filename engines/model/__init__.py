"""Weights on disk to torch modules."""
