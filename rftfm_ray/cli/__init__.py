"""The `rftfm` command."""
