"""What administrators of this server may do over HTTP, at the paths that scripts written for Synapse know."""
