"""README and docs/ are checked against the code."""
