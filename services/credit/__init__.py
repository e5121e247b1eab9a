"""Credit: who may owe us how much, and what is held of it for orders under way."""
