"""Tests of the storage alone."""
