"""HTTP in: types, one-line declarations, short handlers."""
