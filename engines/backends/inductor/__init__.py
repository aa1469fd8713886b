"""The inductor backend: packages that torch.compile made ahead of time."""
