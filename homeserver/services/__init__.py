"""What the server does; lower packages never import higher ones: sync, live | media, rooms, users, auth."""
