"""Fault injection: faults put into a live run on purpose. No detector, diagnosis or remedy knows of them."""
