"""Tests of the tool that measures."""
