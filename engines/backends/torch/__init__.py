"""The torch backend: the networks themselves, eager. `verify` compares the others with it."""
