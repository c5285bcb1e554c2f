"""What is solved: networks, exact denoisers, equations, clouds of points."""
