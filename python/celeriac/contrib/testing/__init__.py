"""Tools for tests of projects: apps, workers that run in the test's process, messages."""
