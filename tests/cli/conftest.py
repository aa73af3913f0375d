"""The command line inside the test's own process: fast enough to call often. `agq_cli` starts real processes."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}Note: {{ message['content'] }}\n"
    "{% else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., SimpleNamespace]:
    """`call("info", path, stdin="", env={})` -> .code .out .err"""
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
def chat_artifact(demo_quantized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template (it was not trained for it: it continues the rendered text)."""
    import agq

    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(demo_quantized, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    output = folder.with_name("chat.agq.safetensors")
    agq.pack(folder, output)
    return output
