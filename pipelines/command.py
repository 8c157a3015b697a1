"""How the commands of this room end: in words and with an exit status, never with a traceback for a user's mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from genforge.commands.arguments import EXIT_FAILED, EXIT_USER
from genforge.settings import UserError
from pipelines.stages import PipelineFailed, StageFailed


def status_of(work: Callable[[], None], interrupted: str) -> int:
    """Exit status of `work`: 0 when it is done, 2 for a mistake that the user can mend, 1 when something failed.

    Args:
        interrupted: what is said when a signal ends it.
    """
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    except PipelineFailed as error:
        for failure in error.failures:
            print(f"error: {failure.stage}: {failure.reason}", file=sys.stderr)
        if error.skipped:
            print(f"not run, since they need what failed: {', '.join(error.skipped)}", file=sys.stderr)
        return EXIT_USER if all(failure.mistake for failure in error.failures) else EXIT_FAILED
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER if error.mistake else EXIT_FAILED
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0


def leave(status: int) -> NoReturn:
    """End the process with this status."""
    if "PREFECT_API_URL" not in os.environ:
        # The temporary server has ended. What Prefect would still tell it now, for minutes, nobody hears.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
