"""``python -m classwise``: the command line, also where the script is not on the path."""

import sys

from classwise.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
