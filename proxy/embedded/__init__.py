"""A small OCI registry over one image layout folder: an upstream for trying out and for tests."""
