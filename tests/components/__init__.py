"""Real registries, engines and clients for the tests: found, started, stopped, read."""
