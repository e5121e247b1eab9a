"""Pricing: what an order costs a partner, and why."""
