"""The driver of a run: the loop, and the only place where orders are carried out."""
