"""What the suites share: timing, rows, tables, figures, pages."""
