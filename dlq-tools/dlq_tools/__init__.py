"""The failure desk: collects dead letters, shows them, replays or discards them, and resolves them only on proof."""
