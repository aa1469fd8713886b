"""Everything on the worker's side that knows Celery or kombu."""
