"""Ingress: orders come in here, and partners hear here what became of them."""
