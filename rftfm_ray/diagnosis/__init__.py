"""From symptoms to a diagnosis. Pure: no ray, no torch."""
