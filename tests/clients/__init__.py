"""Real clients before the proxy before a real registry."""
