"""The test suites of the libraries beside the storage, run against it."""
