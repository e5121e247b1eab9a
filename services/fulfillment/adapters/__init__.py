"""Where fulfillment's states are kept, and how carriers are reached."""
