"""The connection to MongoDB, and the mongod of `--dev` and the tests."""
