"""Where pricing's states are kept."""
