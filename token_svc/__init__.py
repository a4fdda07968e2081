"""Users, OAuth 2 bearer tokens, and each user's own JSON data."""
