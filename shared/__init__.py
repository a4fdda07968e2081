"""What both services need and neither owns."""

VERSION = "0.2.0"
