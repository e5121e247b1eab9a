"""Which warehouse keeps what, what of it is promised, and which warehouses serve an order."""
