"""The failure desk's tables, version by version."""

# The service's role may insert into these and never change or delete what is there.
APPEND_ONLY = ("dead_letter_history",)
