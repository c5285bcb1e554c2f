"""Short programs, each run as `python -m fastgen.examples.<name>`, in minutes on two cores."""
