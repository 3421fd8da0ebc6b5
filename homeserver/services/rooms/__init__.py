"""Rooms: making them, writing events into them, and reading them."""
