"""The little framework: declared endpoints, a trie router, typed arguments, Matrix errors."""
