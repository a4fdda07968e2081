"""Pure ASGI middleware, one class a module; added_headers.py has what several share. It raises, and
shared.errors.ExceptionHandler answers, except where a class says why it answers itself."""
