"""The commands of `python -m token_svc`, and what its doctor looks at."""
