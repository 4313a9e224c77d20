"""What runs: the worker process, and embedded Postgres and Redis for a machine that has neither."""
