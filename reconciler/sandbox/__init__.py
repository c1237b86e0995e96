"""The sandbox: a practice production on this machine, to rehearse a rollback before it is needed.

Product code, not a test double: the practice APIs answer the vendors' own tools, keep their state
through `kill -9`, and can be told to fail in declared ways. Called by `reconciler sandbox` and by
the tests; nothing of it is imported by a reconciliation of a real production.
"""
