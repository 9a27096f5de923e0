"""Integrations of frameworks, which every app asks whether they are wanted."""
