"""From step reports to symptoms. Pure: numpy at most, no ray, no torch."""
