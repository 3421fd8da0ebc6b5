"""Who somebody is: sessions, login, user-interactive authentication."""
