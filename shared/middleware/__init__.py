"""Pure ASGI middleware, one class a module. It raises, and shared.errors.ExceptionHandler answers, except where a class
says why it answers itself."""
