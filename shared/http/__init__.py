"""HTTP on the wire: uvicorn as this project runs it."""
