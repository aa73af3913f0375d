"""`python -m agq`."""

import sys

from agq.cli import main

if __name__ == "__main__":
    sys.exit(main())
