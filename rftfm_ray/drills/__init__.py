"""Drills: faults injected into short runs of one's own; which are found, named and mended, and what they cost."""
