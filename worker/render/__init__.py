"""Continuous batching: requests, the scheduler, the loop that owns the GPU, and DDIM."""
