"""What is shipped: the wheel, the sdist, the types."""
