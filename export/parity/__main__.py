"""`python -m export.parity`: does a bundle compute what its checkpoint computes?"""

import sys

from export.parity.cli import main

if __name__ == "__main__":
    sys.exit(main())
