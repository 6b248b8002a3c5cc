"""What any request passes: who asks, which rules hold, how errors look, what is logged."""
