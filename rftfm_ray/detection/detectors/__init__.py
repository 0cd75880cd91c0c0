"""Detectors: each watches one thing. Pure."""
