"""The ledger service as a process of its own, for tests that kill it: `python -m tests.support.ledger`."""
