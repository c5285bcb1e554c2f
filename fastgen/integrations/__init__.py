"""Drop-ins for other libraries, each imported by its own name."""
