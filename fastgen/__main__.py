"""`python -m fastgen` is the command line."""

import sys

from fastgen.cli import main

sys.exit(main())
