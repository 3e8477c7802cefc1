"""The command line: ``python -m harness``; ``--help`` says what it takes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

# Nothing heavy up here: --help answers before Hydra or torch are imported.
from harness.command.terminal import config_dirs, escape_output, help_text, misplaced, say


def run_command(arguments: Sequence[str]) -> int:
    """Compose, check and plan all jobs, then let the action do what it does. Returns the exit code."""
    from datasets.errors import InputError
    from harness.command.compose import compose
    from harness.command.explain import CONFIG_ERRORS, explain
    from harness.command.prepare import notices, prepare

    try:
        checked = prepare(compose(arguments))
    except (*CONFIG_ERRORS, InputError) as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            traceback.print_exc()
        say(str(error) if isinstance(error, InputError) else explain(error))
        return 2
    for line in notices([one for _, prepared in checked for one in prepared]):
        say(line)
    try:
        return max(action.act(prepared, arguments) for action, prepared in checked)
    except InputError as error:
        say(str(error))
        return 2


def main() -> int:
    """Run the command line. Returns the exit code."""
    escape_output()
    arguments = sys.argv[1:]
    problem = misplaced()
    if problem is not None:
        say(problem)
        return 2
    if "--help" in arguments or "-h" in arguments:
        print(help_text(config_dirs(arguments)), end="")
        return 0
    from datasets.files import unwritable

    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        code = run_command(arguments)
        sys.stdout.flush()
        return code
    except OSError as error:
        if error.filename is None and unwritable(error) is None:
            raise
        say(unwritable(error) or f"{error.filename}: {error.strerror}; correct or remove it")
        return 2
    except KeyboardInterrupt:
        say("interrupted: finished cells are kept; the same command resumes")
        return 130


if __name__ == "__main__":
    sys.exit(main())
