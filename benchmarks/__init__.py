"""Benchmarks; each prints one JSON line. Run as `python -m benchmarks.cpu`."""
