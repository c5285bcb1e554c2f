"""Short programs, each run as `python -m examples.<name>`, in minutes on two cores."""
