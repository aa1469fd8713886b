"""SD1.5's networks written for one GPU: channels last, few passes over memory, kernels of our own in between."""
