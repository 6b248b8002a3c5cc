"""The peers written in Python: one app with different session storages."""
