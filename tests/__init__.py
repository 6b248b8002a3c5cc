"""The tests, a package so that tests.storage never stands in for storage."""
