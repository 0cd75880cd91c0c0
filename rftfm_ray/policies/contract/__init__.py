"""The contract of a remediation policy as a suite of checks: for `rftfm policies check`, and for the shipped ones. Pure."""
