"""Fire drills on a user's own run: which injected faults are found, named and mended, and what they cost."""
