"""The keys of servers."""
