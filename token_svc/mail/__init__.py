"""Mails to users: from the transaction that causes one to the server that takes it."""
