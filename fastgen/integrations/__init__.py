"""Drop-ins for other libraries: each is imported by its own name and needs what it stands in for."""
