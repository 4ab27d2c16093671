"""HTTP in, HTTP out: each facade reads a request, asks the layer below, writes the answer."""
