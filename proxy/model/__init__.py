"""What a model is, without I/O: manifests and tar members in, layers, files and records out."""
