"""Scene in, layout out. `python run_engine.py --help` explains the options."""

import sys

from runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
