"""Where inventory's states are kept."""
