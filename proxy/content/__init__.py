"""Deep modules: what callers want, wherever it lives."""
