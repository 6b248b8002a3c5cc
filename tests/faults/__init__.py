"""Real servers and app processes are killed, frozen, disconnected and filled up in these tests."""
