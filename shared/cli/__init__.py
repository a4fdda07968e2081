"""What the command lines of both services have in common."""
