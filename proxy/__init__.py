"""A reverse proxy for OCI registries that understands AI models."""

__version__ = "0.1.0"
