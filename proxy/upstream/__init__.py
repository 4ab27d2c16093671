"""The existing registry, as this proxy sees it: knows no cache and no model."""
