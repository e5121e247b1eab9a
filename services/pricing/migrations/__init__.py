"""Pricing's tables, version by version."""
