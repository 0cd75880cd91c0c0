"""The life of an incident: a fold over its journal. Pure: no ray, no torch."""
