"""Coverage-guided fuzzing of what reads hostile bytes; see CONTRIBUTING.md, "Fuzzing"."""
