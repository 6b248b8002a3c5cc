"""The peers written in Python: one app, whose sessions are kept in one way or another."""
