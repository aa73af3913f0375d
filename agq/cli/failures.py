"""From exceptions to `error:` and `hint:` lines and exit codes. Works by the exceptions' shapes, so Typer need not be
loaded.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from agq.errors import AgqError
from agq.reporting import console

INTERRUPTED = 128 + signal.SIGINT
NO_READER = 128 + signal.SIGPIPE

_MEMORY = "close other programs, or use a smaller model, a shorter text or smaller batches"
# Packages that only some commands need, as the user knows them, and what else there is to do than to install them.
_OPTIONAL = {
    "torch": ("PyTorch", "; `agq pack FOLDER --weights int4` needs none"),
    "datasets": ("the `datasets` package", ", or name a text file with --data"),
    "huggingface_hub": ("the `huggingface-hub` package", ", or pass a local folder"),
    "transformers": ("the `transformers` package", ""),
}


def run(work: Callable[[], int | None]) -> int:
    """Calls `work` and returns the exit code; every exception becomes a message on stderr."""
    _ensure_streams()
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as exception:
        _trace(exception)
        console.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return NO_READER
    except SystemExit as exception:
        return exception.code if isinstance(exception.code, int) else int(exception.code is not None)
    except Exception as exception:
        code = report(exception)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            return code
        _abandon_stdout()
        return code


def report(exception: Exception) -> int:
    """Prints what happened; returns the exit code."""
    shape = type(exception).__name__
    if shape in ("Exit", "Abort"):  # Typer's way to leave
        code = getattr(exception, "exit_code", None)
        if code is None:
            console.error("interrupted")
        return INTERRUPTED if code is None else int(code)
    _trace(exception)
    if hasattr(exception, "format_message") and hasattr(exception, "exit_code"):
        message, hint = usage_message(exception)
        console.error(message, hint)
        return 2
    if isinstance(exception, AgqError):
        console.error(*worded(exception))
        return exception.exit_code
    known = _known(exception)
    if known is not None:
        console.error(*known)
        return 1
    text = str(exception).strip().split("\n")[0] or "no message"
    console.error(
        f"internal error: {type(exception).__name__}: {text}",
        "run again with AGQ_DEBUG=1 for the traceback, and report it",
    )
    return 2


def worded(error: AgqError) -> tuple[str, str | None]:
    """(message, hint) of the library's error, options named as they are typed."""
    from agq.cli.options import in_flags

    return in_flags(error.message), in_flags(error.hint) if error.hint is not None else None


def _trace(exception: BaseException) -> None:
    if os.environ.get("AGQ_DEBUG", "") not in ("", "0"):
        console.show_traceback(exception)


def _ensure_streams() -> None:
    """Started with stdout or stderr closed, Python has none: what is written goes nowhere then."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _abandon_stdout() -> None:
    """Nobody reads stdout (or it cannot be written): what is still buffered must not make the interpreter complain at
    exit.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _known(exception: Exception) -> tuple[str, str | None] | None:
    """Message and hint of failures of the machine rather than of the code."""
    if isinstance(exception, ModuleNotFoundError):
        name = (exception.name or "").split(".")[0]
        if name in _OPTIONAL:
            package, instead = _OPTIONAL[name]
            # By the package's own name: agq itself is on no index, and not every installation has its source beside it.
            return (
                f"this needs {package}, which is not installed",
                f"pip install {name.replace('_', '-')}{instead}",
            )
        return None
    if isinstance(exception, MemoryError) or "can't allocate memory" in str(exception):
        return "not enough memory", _MEMORY
    if isinstance(exception, OSError) and exception.errno is not None:
        return _os_error(exception)
    if isinstance(exception, RuntimeError) and "home directory" in str(exception):  # pathlib's words
        return "a name begins with `~`, and that home folder is not known", "write the whole path"
    if isinstance(exception, UnicodeEncodeError):
        return "the output's encoding cannot show this text", "set PYTHONIOENCODING=utf-8, or use a UTF-8 locale"
    return None


def _os_error(exception: OSError) -> tuple[str, str | None] | None:
    place = f" `{exception.filename}`" if exception.filename is not None else ""
    number = exception.errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing{place or ' the output'}", "free some space or choose another output path"
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission for{place or ' a file'}", "check the permissions of the file and its folder"
    if number == errno.EROFS:
        return f"cannot write{place}: the file system is read-only", "choose another output path"
    if number == errno.EISDIR:
        return f"{place.strip() or 'a path'} is a folder, not a file", None
    if number == errno.ENOTDIR:
        return f"a part of{place or ' a path'} is not a folder", None
    if number == errno.ENOENT:
        return f"no such file or folder:{place or ' (unnamed)'}", None
    if number in (errno.EMFILE, errno.ENFILE):
        return "too many open files", "raise the limit with `ulimit -n`"
    if number == errno.ENOMEM:
        return "not enough memory", _MEMORY
    if number == errno.ENAMETOOLONG:
        return f"name too long:{place}", None
    if number == errno.EIO:
        return f"read or write error on{place or ' a file'}: the disk may be damaged", None
    return None


# ---- wrong command lines


def usage_message(exception: Any) -> tuple[str, str | None]:
    """(message, hint) of Typer's usage errors, in agq's style: one line each, names in backticks, valid choices
    listed.
    """
    shape = type(exception).__name__
    context = getattr(exception, "ctx", None)
    command = context.command_path if context is not None else "agq"
    if shape == "NoSuchOption":
        name = exception.option_name
        return f"`{command}` has no option `{name}`", _options_hint(context, name)
    if shape in ("BadOptionUsage", "BadArgumentUsage"):
        if "requires an argument" in exception.message:
            return f"`{exception.option_name}` needs a value", f"see `{command} --help`"
        return _tidy(f"`{command}`: {exception.message}"), f"see `{command} --help`"
    parameter = getattr(exception, "param", None)
    if shape == "MissingParameter":
        name = _parameter_name(parameter, context)
        kind = "argument" if getattr(parameter, "param_type_name", "") == "argument" else "option"
        return f"`{command}`: missing {kind} `{name}`", _usage(context) or f"see `{command} --help`"
    if shape == "BadParameter" and parameter is not None:
        name = _parameter_name(parameter, context)
        return f"`{name}`{_source(parameter, context)}: {_tidy(exception.message)}", f"see `{command} --help`"
    message = _tidy(exception.format_message())
    if "unexpected argument" in message and command.endswith(" run"):
        return f"`{command}`: {message}", "put a prompt of several words in quotes"
    if "unexpected argument" in message and (meant := _option_of(message, context)):
        return f"`{command}`: {message}", f"did you mean `{meant}`?"
    return f"`{command}`: {message}", _usage(context) or f"see `{command} --help`"


def _option_of(message: str, context: Any) -> str | None:
    """The option that the unexpected argument of a message is without its dashes."""
    named = re.search(r"unexpected argument `([^`]+)`", message)
    options = {name for parameter in getattr(context.command, "params", ()) for name in parameter.opts}
    found = f"--{named[1]}" if named is not None else ""
    return found if found in options else None


def unknown_command(name: str, names: list[str]) -> AgqError:
    """The error for a command that does not exist, with the closest names."""
    from agq.cli import other_tools
    from agq.errors import UsageError

    if name in other_tools.COMMANDS:
        return UsageError(f"unknown command `{name}`", hint=other_tools.COMMANDS[name])
    close = difflib.get_close_matches(name, [*names, "help"], n=1)
    listing = f"commands: {', '.join(names)}"
    known = f"did you mean `{close[0]}`? {listing}" if close else f"{listing}; see `agq --help`"
    return UsageError(f"unknown command `{name}`", hint=known)


# Typer's words (those of click before it, those of pydantic now) -> agq's.
_WORDS = [
    (r"Input should be a valid integer.*", "not a whole number"),
    (r"Input should be a valid number.*", "not a number"),
    (r"'(.*)' is not a valid int(eger)?( range)?", r"`\1` is not a whole number"),
    (r"'(.*)' is not a valid float( range)?", r"`\1` is not a number"),
    (r"Input should be a valid boolean.*", "neither true nor false"),
    (r"'(.*)' is not a valid boolean.*", r"`\1` is neither true nor false"),
    (r"Input should be greater than or equal to (\S+)", r"less than \1, which is the least"),
    (r"Input should be less than or equal to (\S+)", r"more than \1, which is the most"),
    (r"(\S+) is not in the range ([^<>]+)<=x<=(\S+)", r"\1 is not between \2 and \3"),
    (r"(\S+) is not in the range x>=(\S+)", r"\1 is less than \2, which is the least"),
    (r"Got unexpected extra argument(s|\(s\))? ?\((.*)\)", r"unexpected argument `\2`"),
]


def _tidy(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text


def _parameter_name(parameter: Any, context: Any) -> str:
    if getattr(parameter, "param_type_name", "") == "argument":
        return (parameter.metavar or parameter.name or "").upper().replace("-", "_")
    options = list(getattr(parameter, "opts", [])) or [str(parameter)]
    return max(options, key=len)


def _source(parameter: Any, context: Any) -> str:
    """The variable's name in parentheses where a value came from the environment."""
    variable = getattr(parameter, "envvar", None)
    names = [variable] if isinstance(variable, str) else list(variable or [])
    if context is None:
        return ""
    source = context.get_parameter_source(parameter.name)
    if source is not None and source.name == "ENVIRONMENT":
        return f" (from {' or '.join(name for name in names if name in os.environ)})"
    return ""


def _usage(context: Any) -> str | None:
    if context is None:
        return None
    words = " ".join(context.get_usage().removeprefix("Usage:").split())
    return "usage: " + words.replace("[[", "[").replace("]]", "]")


def _options_hint(context: Any, name: str) -> str | None:
    if context is None:
        return None
    options: list[str] = []
    for parameter in context.command.get_params(context):
        if getattr(parameter, "param_type_name", "") == "option" and not getattr(parameter, "hidden", False):
            # Typer gives the names of --help as a set, in another order each time.
            options += [*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts]
    close = difflib.get_close_matches(name, options, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    if len(name) > 2 and " " in name:
        return "quote a text that begins with a dash, and put -- before it"
    return f"`{context.command_path} --help` lists the options"
