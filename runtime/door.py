"""The last line of both commands: whatever ends a run early becomes one sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.errors import SceneError


def guarded(program: str, action: Callable[[], int], *, interrupted: str, install: str) -> int:
    """Run `action`; 2 with a sentence on stderr where it cannot go on, 130 where it was interrupted.

    `interrupted` says what that leaves behind, `install` what brings a missing package.
    """
    _end_politely()
    _open_streams()
    try:
        return action()
    except KeyboardInterrupt:
        sentence, code = f"interrupted; {interrupted}.", 130
    except (SceneError, ImportError) as error:
        if _from_interrupt(error):
            sentence, code = f"interrupted; {interrupted}.", 130
        elif isinstance(error, SceneError):
            sentence, code = str(error), 2
        elif isinstance(error, ModuleNotFoundError):
            sentence, code = f"needs the package {error.name!r}, which is not installed. Install it: {install}", 2
        else:
            raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        sentence, code = "the reader of the output went away before all was printed.", 2
    except MemoryError as error:
        sentence, code = f"not enough memory ({error}). Crop the scene, or free some.", 2
    except RecursionError:
        sentence, code = "a JSON file or a chat template is nested too deeply to be one of ours. Check the inputs.", 2
    except (OSError, UnicodeError) as error:
        sentence, code = _refused(error), 2
    print(f"{program}: {sentence}", file=sys.stderr)
    return code


def entered(program: str, module: str, *, install: str) -> int:
    """Import `module` and run its `main`; 2 with a sentence on stderr where the import lacks a package."""

    def action() -> int:
        code: int = importlib.import_module(module).main()
        return code

    return guarded(program, action, interrupted="nothing was written", install=install)


def _open_streams() -> None:
    """A caller may have closed stdout or stderr: what is printed there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _from_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is what began it: a library that is interrupted while it loads says that it cannot."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _refused(error: OSError | UnicodeError) -> str:
    """What the system said of a path, where no one nearer knew better."""
    if isinstance(error, OSError):
        name = error.filename or "a file"
        return f"{name}: the system refused it ({error.strerror or error}). Check path and permissions."
    return f"a name or text cannot be encoded ({error}). Rename the file, or set PYTHONIOENCODING=utf-8."


def _end_politely() -> None:
    """SIGTERM, and a terminal that is closed, end a run as Ctrl-C does, so that nothing half-written stays."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(signal.SIGHUP, interrupt)
