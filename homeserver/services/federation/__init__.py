"""What other servers ask of this one as a server: deliveries, and what it knows of keys."""
