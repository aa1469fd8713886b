"""What operators see: health, metrics and exit codes."""
