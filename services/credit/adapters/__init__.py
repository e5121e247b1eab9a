"""Where credit's states are kept."""
