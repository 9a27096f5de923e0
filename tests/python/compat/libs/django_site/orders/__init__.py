"""An application with tasks of its own."""
