"""The Python side of running tasks: supervisor, fork server, children."""
