"""The fault benchmark: runs in bulk on the live stack, what faults do to them, and how strong they must be."""
