"""What is true for a moment: who types, who has read what, who is there."""
