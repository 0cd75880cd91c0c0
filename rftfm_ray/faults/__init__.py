"""Fire drills: faults put into a live run on purpose. Nothing that detects, diagnoses or mends knows of them."""
