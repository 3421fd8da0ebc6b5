"""Version 2."""
