"""Absolute readings: what no healthy run shows, whatever its configuration; no history, no profile. Pure."""
