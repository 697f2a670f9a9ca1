"""Entry of `python -m dawm`."""

import sys

from dawm.cli import main

if __name__ == "__main__":
    sys.exit(main())
