"""Calls to other servers, one function for each operation of the server-server API, by area."""
