"""What operators see: health, metrics, logs and exit codes."""
