"""`producer keep`: the service that reconciles for ever and shows over HTTP how the batches go."""
