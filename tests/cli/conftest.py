"""A model to talk to, shared by the tests of the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}Note: {{ message['content'] }}\n"
    "{% else %}{{ message['role'] }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


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
