"""Servers and app processes are killed, frozen, cut off and filled up here, all of them real."""
