"""Stored sessions of every release; each later release must open them."""
