"""Scene in, layout out. `python run_engine.py --help` explains the options."""

import os
import sys

from runtime.cli import main

INTERRUPTED = 130

if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:  # leave without unloading the engines: an interrupted one may still be at work
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
