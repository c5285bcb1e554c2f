"""What every room may use: errors, checks, devices, graphs, Butcher tableaus."""
