"""Everything on the worker's side that knows Celery, kombu or billiard: no other folder imports them."""
