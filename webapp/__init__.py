"""Accounts and profiles on aiohttp, with sessions in MongoDB: `python -m webapp`."""
