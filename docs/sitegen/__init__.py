"""What makes the site's pages from the package: extensions of Sphinx, a module each."""
