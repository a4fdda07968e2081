"""The commands of `python -m only_post_svc`, and what its doctor looks at."""
