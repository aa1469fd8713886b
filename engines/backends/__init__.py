"""What backends are (protocol, recipe), the stages that they share, one folder each, and the registry of them."""
