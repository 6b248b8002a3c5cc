"""The released files: the wheel, the sdist, the types."""
