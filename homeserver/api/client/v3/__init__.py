"""Client-server API, `/_matrix/client/v3`."""
