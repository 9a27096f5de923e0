"""Extras: tools for tests, base classes of tasks, integrations."""
