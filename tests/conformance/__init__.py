"""The distribution-spec, asked of each upstream with and without the proxy."""
