"""Small tools that know nothing of Matrix: time, chance, tasks, logs, metrics."""
