"""What leaves this server: HTTP to others, and bytes to where they are kept."""
