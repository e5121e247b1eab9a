"""Compliance's tables, version by version."""

# The service's role may insert into these and never change or delete what is there.
APPEND_ONLY = ("screening",)
