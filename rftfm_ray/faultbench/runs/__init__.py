"""The runs of a benchmark: planned, made, kept."""
