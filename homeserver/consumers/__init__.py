"""Work that follows what has happened: each piece may be done twice, and none is lost."""
