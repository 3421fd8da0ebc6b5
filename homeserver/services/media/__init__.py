"""Files that users share."""
