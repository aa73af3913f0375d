"""The frame of the command line: what is imported when, global options, usage errors, failures of the machine."""

import errno
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from agq.cli import failures
from agq.cli.commands import COMMANDS
from agq.errors import AgqError, UsageError
from agq.reporting import console
from tests.support import clean_environment, heed_interrupts

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "scipy",
    "huggingface_hub",
    "numpy",
    "tokenizers",
    "rich",
    "yaml",
)


def imported_by(arguments: list[str], names: tuple[str, ...]) -> set[str]:
    code = (
        "import sys; from agq.cli import main; code = main(sys.argv[1:]); "
        f"print('LOADED', *[n for n in {names!r} if n in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=clean_environment()
    )
    line = next(line for line in result.stderr.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


def test_help_lists_every_command_and_imports_nothing_heavy(agq_cli):
    result = agq_cli("--help")
    assert result.returncode == 0 and result.stderr == ""
    for name, (_, text) in COMMANDS.items():
        assert f"  {name:<12}{text}" in result.stdout
    assert imported_by(["--help"], (*HEAVY, "typer")) == set()
    assert agq_cli("-h").stdout == result.stdout == agq_cli("-v", "--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(agq_cli, name):
    result = agq_cli(name, "--help")
    assert result.returncode == 0 and result.stdout.startswith(f"Usage: agq {name} ")
    for option in ("--verbose", "--quiet", "--color", "--no-progress"):
        assert option in result.stdout
    assert (
        imported_by([name, "--help"], ("torch", "transformers", "datasets", "pandas", "scipy", "huggingface_hub"))
        == set()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_variable_of_its_own(name):
    from agq.cli.application import load_command

    seen: dict[str, str] = {}
    for parameter in load_command(name).params:
        if parameter.param_type_name != "option" or parameter.name in (
            "help",
            "verbose",
            "quiet",
            "color",
            "no_progress",
        ):
            continue
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar)
        for variable in names:
            assert variable.startswith("AGQ_") and variable not in seen, variable
            seen[variable] = parameter.name


def test_only_the_invoked_command_is_imported():
    modules = tuple(module for module, _ in COMMANDS.values())
    assert imported_by(["eval-ppl", "/nowhere"], modules) == {"agq.cli.eval_ppl"}


def test_version(agq_cli):
    for arguments in (["--version"], ["-q", "--version"]):
        result = agq_cli(*arguments)
        assert result.returncode == 0 and result.stdout.startswith("agq 0.") and "kernels: " in result.stdout
    assert imported_by(["--version"], ("torch", "transformers")) == set()


def test_no_command_shows_help_on_stderr(agq_cli):
    result = agq_cli()
    assert result.returncode == 2 and result.stdout == "" and "Commands:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["rnu"], "unknown command `rnu`", "did you mean `run`? commands: calibrate,"),
        (["hlep"], "unknown command `hlep`", "did you mean `help`? commands: calibrate,"),
        (["--foo"], "`agq` has no option `--foo`", "did you mean"),
        (["eval-ppl", "x", "--sed-len", "4"], "`agq eval-ppl` has no option `--sed-len`", "did you mean `--seq-len`?"),
        (["eval-ppl"], "`agq eval-ppl`: missing argument `MODEL`", "usage: agq eval-ppl"),
        (["eval-ppl", "x", "--seq-len", "many"], "`--seq-len`: `many` is not a whole number", "--help"),
        (["eval-ppl", "x", "--max-ppl", "many"], "`--max-ppl`: `many` is not a number", "--help"),
        (["eval-ppl", "x", "--threads", "0"], "`--threads`: ", "--help"),
        (["eval-ppl", "x", "--data"], "`--data` needs a value", "--help"),
        (["eval-ppl", "x", "y"], "unexpected argument `y`", "usage: "),
        (["cache", "clear"], "unexpected argument `clear`", "did you mean `--clear`?"),
        (["eval-ppl", "x", "--color", "pink"], "`--color`: `pink` is not one of auto, always, never", "--help"),
        (["eval-ppl", "x", "--method", "guess"], "unknown method `guess`", "gptq, llama.cpp, lm-eval, strided"),
    ],
)
def test_usage_errors_are_two_lines_and_code_2(agq_cli, arguments, error, hint):
    result = agq_cli(*arguments)
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and result.stdout == "" and len(lines) == 2, result.stderr
    assert lines[0].startswith("error: ") and error in lines[0] and not lines[0].endswith(".")
    assert lines[1].startswith("hint: ") and hint in lines[1]


def test_a_device_is_no_model(call):
    result = call("info", "/dev/null")
    assert result.code == 1 and result.err.startswith(
        "error: `/dev/null` is neither a file nor a folder\nhint: MODEL is"
    )


def test_a_full_cache_says_what_can_be_done(call, demo_model, tmp_path, monkeypatch):
    monkeypatch.setenv("AGQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("agq.files.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    result = call("run", demo_model, "hi", "-n", "2")
    assert result.code == 1 and "error: not enough room for" in result.err
    assert "hint: `agq cache` lists what was packed before" in result.err and "AGQ_CACHE_DIR" in result.err


def test_a_folder_as_output_of_pack_is_named_as_one(call, demo_model, tmp_path):
    """`--force` would be no help."""
    result = call("pack", demo_model, "-o", tmp_path)
    assert result.code == 2 and result.err == f"error: output `{tmp_path}` is a folder\nhint: name a file, such as " + (
        "model.agq.safetensors\n"
    )


def test_a_wrong_variable_is_named(agq_cli):
    result = agq_cli("eval-ppl", "x", env={"AGQ_THREADS": "two"})
    assert result.returncode == 2 and "`--threads` (from AGQ_THREADS): `two` is not a whole number" in result.stderr
    result = agq_cli("--help", env={"AGQ_NO_PROGRESS": "maybe"})
    assert result.returncode == 2 and "AGQ_NO_PROGRESS is `maybe`" in result.stderr


@pytest.mark.slow
def test_colour(agq_cli):
    assert "\x1b[" not in agq_cli("rnu").stderr
    assert agq_cli("eval-ppl", "/no", "--color", "always").stderr.startswith("\x1b[31;1merror:\x1b[0m ")
    assert agq_cli("--color", "always", "eval-ppl", "/no").stderr.startswith("\x1b[31;1merror:")
    assert "\x1b[" not in agq_cli("rnu", env={"FORCE_COLOR": "1"}).stderr  # NO_COLOR is set and wins
    env = {**clean_environment(), "FORCE_COLOR": "1"}
    del env["NO_COLOR"]
    command = [sys.executable, "-m", "agq", "rnu"]
    assert "\x1b[" in subprocess.run(command, env=env, capture_output=True, text=True).stderr


def test_traceback_only_when_debugging(agq_cli):
    assert "Traceback" not in agq_cli("eval-ppl", "/nowhere").stderr
    result = agq_cli("eval-ppl", "/nowhere", env={"AGQ_DEBUG": "1"})
    assert "Traceback" in result.stderr and result.stderr.splitlines()[-2].startswith("error: ")


def failing(exception: BaseException):
    def work() -> None:
        raise exception

    return work


@pytest.mark.parametrize(
    ("exception", "code", "message"),
    [
        (AgqError("bad `x`", hint="do y"), 1, "error: bad `x`\nhint: do y\n"),
        (UsageError("two\nlines"), 2, "error: two lines\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (BrokenPipeError(errno.EPIPE, "pipe"), 141, ""),
        (MemoryError(), 1, "error: not enough memory\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "error: not enough memory\n"),
        (OSError(errno.ENOSPC, "No space"), 1, "error: disk full while writing the output\n"),
        (OSError(errno.ENOSPC, "No space", "/a/b"), 1, "error: disk full while writing `/a/b`\n"),
        (PermissionError(errno.EACCES, "denied", "/a"), 1, "error: no permission for `/a`\n"),
        (IsADirectoryError(errno.EISDIR, "is dir", "/a"), 1, "error: `/a` is a folder, not a file\n"),
        (FileNotFoundError(errno.ENOENT, "none", "/a"), 1, "error: no such file or folder: `/a`\n"),
        (OSError(errno.EROFS, "ro", "/a"), 1, "error: cannot write `/a`: the file system is read-only\n"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            1,
            "error: this needs PyTorch, which is not installed\n"
            "hint: pip install torch; `agq pack FOLDER --weights int4` needs none\n",
        ),
        (ModuleNotFoundError("No module named 'nope'", name="nope"), 2, "error: internal error: ModuleNotFoundError: "),
        (ValueError("odd\nvalue"), 2, "error: internal error: ValueError: odd\nhint: run again with AGQ_DEBUG=1"),
        (SystemExit(3), 3, ""),
    ],
)
def test_exceptions_become_lines_and_codes(capfd, monkeypatch, exception, code, message):
    monkeypatch.delenv("AGQ_DEBUG", raising=False)
    monkeypatch.setattr(failures, "_abandon_stdout", lambda: None)
    console.configure(color="never")
    try:
        assert failures.run(failing(exception)) == code
    finally:
        console.configure(color="auto")
    err = capfd.readouterr().err
    assert err.startswith(message) if message else err == ""


def test_success_codes():
    assert failures.run(lambda: None) == 0
    assert failures.run(lambda: 3) == 3


@pytest.mark.slow
def test_interrupt_is_130(demo_model, demo_text):
    command = [sys.executable, "-m", "agq", "eval-ppl", str(demo_model), "--data", str(demo_text / "heldout.txt"), "-v"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        preexec_fn=heed_interrupts,
    )
    assert "warning: windows of 1024" in process.stderr.readline()  # the model is loaded
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "error: interrupted" in err and "Traceback" not in err and out == ""


def test_closed_and_full_streams():
    def run(redirect: str) -> subprocess.CompletedProcess:
        command = ["sh", "-c", f"{sys.executable} -m agq --help {redirect}"]
        return subprocess.run(command, capture_output=True, text=True, env=clean_environment())

    assert run(">&- 2>&-").returncode == 0
    assert run("| head -0").stderr == ""
    if os.path.exists("/dev/full"):
        result = run("> /dev/full")
        assert result.returncode == 1 and "disk full while writing the output" in result.stderr
        assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


def test_missing_pytorch_is_said(demo_model, demo_text, tmp_path):
    """As on a machine where only `pip install agq` was done."""
    code = (
        "import sys; sys.modules['torch'] = None; from agq.cli import main; "
        f"sys.exit(main(['eval-ppl', {str(demo_model)!r}, '--data', {str(demo_text / 'heldout.txt')!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean_environment())
    assert result.returncode == 1 and "needs PyTorch" in result.stderr and "pip install torch;" in result.stderr


def test_completion_of_the_shell(agq_cli):
    result = agq_cli(env={"_AGQ_COMPLETE": "complete_bash", "COMP_WORDS": "agq ev", "COMP_CWORD": "1"})
    assert "eval-ppl" in result.stdout
