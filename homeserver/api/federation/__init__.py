"""What other servers ask for."""
