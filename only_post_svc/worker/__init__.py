"""Runs tasks: the coordinator, and the child processes that it gives them to."""
