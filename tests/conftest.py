"""Fixtures that every test may use: the real broker and database (servers.py), and a whole platform (platform.py)."""

pytest_plugins = ["tests.support.servers", "tests.support.platform"]
