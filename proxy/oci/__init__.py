"""The image-spec and the distribution-spec without I/O: bytes in, frozen records out."""
