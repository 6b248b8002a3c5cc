"""Tests of a deployment with its real parts: honcho, nginx, several processes."""
