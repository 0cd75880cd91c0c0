"""The page of faults."""
