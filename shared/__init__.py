"""What both services need and neither owns."""

VERSION = "0.1.0"
