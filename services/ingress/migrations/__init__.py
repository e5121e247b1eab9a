"""Ingress' tables, version by version."""

APPEND_ONLY: tuple[str, ...] = ()
