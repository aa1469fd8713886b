"""`producer keep`: the service that reconciles for ever, and says over HTTP how things are."""
