"""Data sets of the user's: read from files, brought into one form, checked, and trained on."""
