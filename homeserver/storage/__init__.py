"""SQL: table definitions and every statement on them, together."""
