"""The C library: finding, choosing and loading it, its functions as cffi tables, and those that need no engine."""
