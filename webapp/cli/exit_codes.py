"""Which exit code a command ends with, and what `--help` says of each.

75 and 78 as in sysexits.h: a supervisor starts the app again after 75, never after 78. 2 is
argparse's own, and 130 is what a shell reports after Ctrl-C.
"""

from __future__ import annotations

import textwrap

DONE, NOT_DONE, WRONG_ARGUMENTS, TRY_LATER, MISCONFIGURED, INTERRUPTED = 0, 1, 2, 75, 78, 130

_MEANINGS = {
    DONE: "done",
    NOT_DONE: "not done: no such account, a refused password, the port in use; the reason is on "
    "standard error",
    WRONG_ARGUMENTS: "wrong arguments",
    TRY_LATER: "MongoDB does not answer, or not yet; the same command may succeed later",
    MISCONFIGURED: "the configuration, the address of MongoDB or its user's rights must be "
    "changed; one line per problem on standard error",
    INTERRUPTED: "interrupted",
}
EXIT_CODES = "exit codes:\n" + "".join(
    textwrap.fill(f"{code:<3} {meaning}", 96, initial_indent="  ", subsequent_indent=" " * 6) + "\n"
    for code, meaning in _MEANINGS.items()
)
