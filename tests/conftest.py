"""Fixtures shared by all tests.

The trained LLaMA demo model of `demo/` is always there. Further trained models (OPT, BLOOM, a larger LLaMA) are looked
for in the folder that `AGQ_SHARED` names, or in `shared/` beside the repository; tests that need one are additional and
say so when they skip.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.command_server import CommandServer
from tests.support import REPOSITORY, clean_environment, shared_folder, untraced

DEMO_MODEL = REPOSITORY / "demo" / "llama-demo"
DEMO_TEXT = REPOSITORY / "demo" / "text"
# Threads of torch in a test and in the processes that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}Note: {{ message['content'] }}\n"
    "{% else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: the last file that a worker takes is a short one, and no worker waits long
    for another. In a file the order stays."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """`make coverage` counts the lines that fast tests and some others run: slow ones would take longer by a fifth and
    add few."""
    counts = item.get_closest_marker("traced") or not item.get_closest_marker("slow")
    with contextlib.nullcontext() if counts else untraced():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _offline() -> None:
    """Tests never reach for a model hub, whatever the machine could."""
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """Commands that a test calls in its own process set them for good, and the last bit of a sum depends on them."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The trained LLaMA demo model: bf16, grouped queries, tied head, hidden 256, 6 layers, vocabulary 8192, context
    1024."""
    return DEMO_MODEL


@pytest.fixture(scope="session")
def demo_text() -> Path:
    """Folder with `calibration.txt` and `heldout.txt`: Wikipedia text that the demo model was not trained on."""
    return DEMO_TEXT


@pytest.fixture(scope="session")
def shared_model() -> Callable[[str], Path]:
    """`shared_model("opt-demo")`: a further trained model; the test skips, with the reason, where the folder is
    absent."""

    def find(name: str) -> Path:
        path = shared_folder() / "models" / name
        if not path.is_dir():
            pytest.skip(f"no trained model {name}: {path} is absent (AGQ_SHARED names another folder)")
        return path

    return find


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("wikitext2/test.txt")`: a further text; the test skips, with the reason, where it is absent."""

    def find(name: str) -> Path:
        path = shared_folder() / "data" / name
        if not path.is_file():
            pytest.skip(f"no text {name}: {path} is absent (AGQ_SHARED names another folder)")
        return path

    return find


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    """What forks `agq` commands."""
    started = CommandServer(clean_environment(), REPOSITORY)
    yield started
    started.close()


@pytest.fixture(scope="session")
def agq_cli(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`agq_cli("info", path)`: the command line in its own process. Never raises on an exit code.

    Keywords: `stdin` (text; none by default: an empty pipe), `cwd`, `timeout` in seconds, `env` (dict of additions),
    `check` (True: fail the test, showing stderr, unless the exit code is 0), `fresh` (True: a new interpreter).
    """
    cache = tmp_path_factory.mktemp("agq-cache")

    def call(
        *arguments: object,
        stdin: str = "",
        cwd: Path | None = None,
        timeout: float = 900,
        env: dict[str, str] | None = None,
        check: bool = False,
        fresh: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        whole = clean_environment(**{"AGQ_CACHE_DIR": str(cache), **(env or {})})
        if not fresh and all(name.startswith("AGQ_") for name in env or {}):
            server: CommandServer = request.getfixturevalue("command_server")
            result = server.run([*map(str, arguments)], stdin, cwd or Path.cwd(), timeout, whole)
        else:  # what modules read when they are imported
            result = subprocess.run(
                [sys.executable, "-m", "agq", *map(str, arguments)],
                input=stdin,
                cwd=cwd,
                timeout=timeout,
                text=True,
                encoding="utf-8",
                capture_output=True,
                env=whole,
            )
        if check and result.returncode != 0:
            pytest.fail(f"agq {' '.join(map(str, arguments))} gave {result.returncode}\n{result.stderr}")
        return result

    return call


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., SimpleNamespace]:
    """`call("info", path, stdin="", env={})` -> .code .out .err: the command line inside the test's own process, fast
    enough to call often."""
    from agq.cli import main

    for name in list(os.environ):
        if name.startswith("AGQ_") and name != "AGQ_SHARED":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AGQ_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cli-cache"))

    def run(*arguments: object, stdin: str = "", env: dict[str, str] | None = None) -> SimpleNamespace:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
            capsys.readouterr()
            code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture(scope="session")
def demo_quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a compressed-tensors folder: W4A8, group 128, round to nearest."""
    import agq

    output = tmp_path_factory.mktemp("demo-quantized") / "llama-demo-w4a8"
    agq.quantize(DEMO_MODEL, scheme="W4A8", method="rtn", output=output)
    return output


@pytest.fixture(scope="session")
def demo_artifact(demo_quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`demo_quantized`, packed."""
    import agq

    output = tmp_path_factory.mktemp("demo-artifact") / "llama-demo-w4a8.agq.safetensors"
    agq.pack(demo_quantized, output)
    return output


@pytest.fixture(scope="session")
def chat_artifact(demo_quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template (it was not trained for it: it continues the rendered text)."""
    import agq

    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(demo_quantized, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    output = folder.with_name("chat.agq.safetensors")
    agq.pack(folder, output)
    return output


@pytest.fixture(scope="session")
def fp32_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`fp32_artifact(folder)`: an unquantized model packed with float32 weights (and KV cache); made once per
    folder."""
    import agq

    made: dict[Path, Path] = {}

    def build(folder: Path) -> Path:
        if folder not in made:
            output = tmp_path_factory.mktemp("fp32-artifact") / f"{folder.name}.agq.safetensors"
            agq.pack(folder, output, weights="f32", kv_bits=32, head_bits=32)
            made[folder] = output
        return made[folder]

    return build


@pytest.fixture(scope="session")
def short_model(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two of the demo model's six blocks, with its tokenizer, which quantizes in a second or two: hidden 256,
    feed-forward 768."""
    from tests.quantization.quantization_support import cut_model

    return cut_model(demo_model, tmp_path_factory.mktemp("short") / "llama-short", layers=2)
