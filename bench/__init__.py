"""The proxy measured beside nginx and beside no proxy at all, in the same run."""
