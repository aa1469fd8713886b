"""The command line that people use: check a CSV, enqueue it, watch it, fetch what came of it. No torch, no Celery."""
