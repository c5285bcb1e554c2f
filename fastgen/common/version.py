"""The version of the package, which the face and the command line show."""

VERSION = "0.1.0"
