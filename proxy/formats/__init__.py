"""Containers and weights, without I/O: bytes in, frozen records out."""
