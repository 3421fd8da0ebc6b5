"""What a client is told when it asks what is new."""
