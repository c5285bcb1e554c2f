"""The extension under sanitizers: `python -m tests.sanitize`."""
