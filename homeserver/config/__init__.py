"""Settings: one typed tree, read once."""
