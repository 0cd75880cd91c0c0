"""The contract of a remediation policy as a suite of checks, for those of users and those that ship alike. Pure."""
