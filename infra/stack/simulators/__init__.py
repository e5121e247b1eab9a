"""Programs that play the part of systems outside, for demonstration and tests. No product code knows of them."""
