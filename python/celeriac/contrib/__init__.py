"""Extras that not every project needs."""
