"""What README and docs/ say, held to the code."""
