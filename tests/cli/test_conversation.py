"""`agq run` on a terminal: conversations, their commands, and what a person sees of an answer."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal

pytestmark = pytest.mark.slow

PROMPT = "The red wolf is"
GREEDY = ("--temp", 0, "-n", 12)


@pytest.fixture
def chat(chat_artifact: Path):
    """`chat("-n", 6)`: a conversation that may be typed into; it is left at the end."""
    opened: list[Terminal] = []

    def start(*options: object, **settings: object) -> Terminal:
        terminal = Terminal("run", chat_artifact, *options, **settings)
        opened.append(terminal)
        terminal.ready()
        return terminal

    yield start
    for terminal in opened:
        terminal.process.kill()


def saved(terminal: Terminal, path: Path) -> list[tuple[str, str]]:
    """The messages of a conversation, as /save writes them."""
    assert "saved" in terminal.ask(f"/save {path}")
    return [(message["role"], message["content"]) for message in json.loads(path.read_text())]


def test_messages_of_several_lines(chat, tmp_path: Path) -> None:
    """Pasted with and without brackets, continued by a backslash, between quotes: one message, one answer each. What
    stands in quotes is no command."""
    terminal = chat(*GREEDY)
    terminal.paste("one\ntwo\n\nthree")
    time.sleep(0.2)
    terminal.ask("")
    terminal.ask("four\rfive")
    for line in ("six \\\r", '"""seven\r\r'):
        terminal.send(line)
        time.sleep(0.3)  # typed, and not pasted
        terminal.ask('eight"""' if '"""' in line else "seven")
    terminal.ask('"""/exit"""')
    asked = [content for role, content in saved(terminal, tmp_path / "talk.json") if role == "user"]
    assert asked == ["one\ntwo\n\nthree", "four\nfive", "six \nseven", "seven\n\neight", "/exit"]


def test_commands(chat, tmp_path: Path) -> None:
    terminal = chat(*GREEDY)
    terminal.ask("/stats")
    first = terminal.ask("Where is it?")
    second = terminal.ask("And now?")
    assert "error: unknown command `/undu`: did you mean `/undo`?" in (wrong := terminal.ask("/undu"))
    listed = "/exit /bye /clear /undo /retry /system /save /load /stats /help"
    assert f"hint: {listed}" in wrong
    for name in ("/save", "/load"):
        assert "the home folder of `~nobody-there/talk`" in terminal.ask(f"{name} ~nobody-there/talk")
    assert "takes nothing" in terminal.ask("/undo twice") and "needs a file" in terminal.ask("/save")
    assert "/exit or Ctrl-D leaves" in terminal.ask("exit")
    assert all(name in terminal.ask("/help") for name in listed.split())
    said = terminal.ask("/retry")
    assert said.startswith(second.split("\n")[0]) and "the answer stays the same" in said
    assert len(saved(terminal, tmp_path / "talk.json")) == 4
    assert "forgotten: And now?" in terminal.ask("/undo")
    assert [role for role, _ in saved(terminal, tmp_path / "talk.json")] == ["user", "assistant"]
    terminal.ask("/clear")
    assert "nothing to undo" in terminal.ask("/undo")
    kept = (tmp_path / "talk.json").read_text()
    assert "nothing was said" in terminal.ask(f"/save {tmp_path / 'talk.json'}")
    assert (tmp_path / "talk.json").read_text() == kept
    assert terminal.ask("Where is it?") == first
    terminal.send("/bye\r")
    assert terminal.close() == 0


def test_system_message_and_loaded_conversation(chat, tmp_path: Path) -> None:
    terminal = chat(*GREEDY, "--system", "Be brief.")
    assert "Be brief." in terminal.ask("/system")
    terminal.ask("Where is it?")
    file = tmp_path / "talk.json"
    kept = saved(terminal, file)
    assert kept[0] == ("system", "Be brief.") and len(kept) == 3
    next_answer = terminal.ask("And now?").rpartition("\n")[0]
    other = chat(*GREEDY)
    assert "3 messages loaded" in other.ask(f"/load {file}")
    assert other.ask("And now?").rpartition("\n")[0] == next_answer
    assert "removed" in other.ask('/system ""') and "no system message" in other.ask("/system")
    (tmp_path / "words.txt").write_text("words")
    assert "is no conversation" in other.ask(f"/save {tmp_path / 'words.txt'}")
    assert "is not JSON" in other.ask(f"/load {tmp_path / 'words.txt'}")
    assert (tmp_path / "words.txt").read_text() == "words"


def test_interrupted_answer_is_kept_and_the_terminal_restored(chat, tmp_path: Path) -> None:
    terminal = chat("--temp", 0.9, "--seed", 1, "-n", 100_000, "-c", 1_000_000)
    terminal.send("Where is it?\r")
    terminal.expect("\x1b[?2004l")
    terminal.wait_for(40)
    assert not terminal.echoes()
    terminal.send("unseen")
    terminal.wait_for(400)
    terminal.send("\x03")
    shown = terminal.ready()
    assert "unseen" not in shown
    kept = saved(terminal, tmp_path / "talk.json")
    assert len(kept) == 2 and " ".join(kept[1][1].split()) in " ".join(shown.split())
    terminal.send("Where is it?\r")
    terminal.expect("\x1b[?2004l")
    terminal.wait_for(20)
    os.kill(terminal.process.pid, signal.SIGTERM)
    terminal.process.wait(30)
    assert terminal.echoes() and terminal.process.returncode == 143


def test_oldest_turns_leave_a_full_context(chat, tmp_path: Path) -> None:
    terminal = chat("--temp", 0, "-n", 20, "-c", 96)
    shown = [terminal.ask(f"Question {number} about the river and the wolf?") for number in range(4)]
    told = [line for text in shown for line in text.split("\n") if "forgotten" in line]
    assert told and all(
        re.fullmatch(r"the context of 96 tokens is full: the .* (is|are) forgotten", line) for line in told
    )
    assert "full" not in shown[0]
    kept = saved(terminal, tmp_path / "talk.json")
    assert kept[0][0] == "user" and not kept[0][1].startswith("Question 0") and kept[-2][1].startswith("Question 3")
    assert "error: the prompt has" in terminal.ask("river " * 100)
    assert saved(terminal, tmp_path / "talk.json") == kept


def test_history_is_kept_between_conversations(chat, tmp_path: Path) -> None:
    first = chat(*GREEDY, XDG_STATE_HOME=str(tmp_path))
    first.ask("Where is it?")
    first.send("\x04")
    assert first.close() == 0
    history = tmp_path / "agq" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    second = chat(*GREEDY, XDG_STATE_HOME=str(tmp_path))
    second.send("\x1b[A\r")  # the key that goes back
    assert "Where is it?" in second.expect("\x1b[?2004l")


def test_speed_and_limit_are_told(chat) -> None:
    terminal = chat(*GREEDY)
    speed = re.compile(r"\n12 tokens, [\d.]+ tok/s$")
    assert speed.search(terminal.ask("Where is it?"))
    assert "stopped at 12 tokens (-n)" in terminal.ask("Where is it?")
    assert "not shown" in terminal.ask("/stats")
    assert not speed.search(terminal.ask("Where is it?"))


def test_words_are_not_broken_at_the_edge(chat_artifact: Path, call) -> None:
    terminal = Terminal("run", chat_artifact, PROMPT, "--temp", 0, "-n", 60, columns=30)
    text = call("run", chat_artifact, PROMPT, "-n", 60).out
    shown = terminal.expect("60 tokens")
    lines = shown.rstrip("\n").split("\n")
    assert max(map(len, lines)) <= 30 and len(lines) > 3
    assert shown.split() == text.split()
    assert terminal.close() == 0


def test_progress_of_a_long_prompt(demo_artifact: Path, tmp_path: Path) -> None:
    """From the second second on, erased before the text; by the scalar kernels, which are slow."""
    (tmp_path / "long.txt").write_text("The river flows to the north. " * 600)
    terminal = Terminal(
        "run", demo_artifact, "-f", tmp_path / "long.txt", "-c", 8000, "-n", 3, "-t", 1, AGQ_ISA="scalar"
    )
    seen = terminal.expect("3 tokens, ") + terminal.seen
    line = r"prompt \d+/(\d+) tokens, [\d.e+]+ tok/s, [\d:]+ s left"
    assert re.search(line, seen), seen
    assert terminal.close() == 0


def test_sampling_is_for_terminals(chat_artifact: Path, tmp_path: Path, call) -> None:
    """The model's authors said `do_sample: false`; without their word an answer on a terminal is sampled."""
    import agq

    folder = chat_artifact.with_name("model")
    greedy = Terminal("run", chat_artifact, PROMPT, "-n", 4, "-v")
    assert "greedy; length" in greedy.expect("length") + "length"
    (tmp_path / "model").mkdir()
    for file in folder.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / "model" / file.name).symlink_to(file)
    silent = tmp_path / "silent.agq.safetensors"
    agq.pack(tmp_path / "model", silent)
    sampled = Terminal("run", silent, PROMPT, "-n", 4, "-v")
    assert "; seed " in sampled.expect("length")
    piped = Terminal("run", silent, "-", "-n", 4, "-v")
    piped.send(f"{PROMPT}\n\x04")
    assert "greedy" in piped.expect("; length")
    assert "greedy" in call("run", silent, "-n", 4, "-v", stdin=PROMPT).err
    assert "greedy" in call("run", silent, PROMPT, "-n", 4, "-v").err


def test_plain_terminal(demo_artifact: Path, call) -> None:
    """TERM=dumb: no editor; a text model's next prompt continues the text, whose beginning is in the cache."""
    alone = call("run", demo_artifact, PROMPT, "-n", 6).out
    terminal = Terminal("run", demo_artifact, "-n", 6, "-v", "--temp", 0, term="dumb")
    terminal.expect("> ")
    terminal.send(PROMPT + "\n")
    terminal.expect(PROMPT + "\r\n")
    assert alone in terminal.expect("load ")
    terminal.expect("> ")
    terminal.send("and then\\\n")
    terminal.expect(". ")
    terminal.send("again\n")
    fed = re.search(r"prompt (\d+) tokens", terminal.expect("tok/s; eval"))
    assert fed is not None and int(fed[1]) < 12  # the rest stood in the cache
    terminal.expect("> ")
    terminal.send("/clear\n")
    terminal.expect("> ")
    terminal.send(PROMPT + "\n")
    terminal.expect(PROMPT + "\r\n")
    assert alone in terminal.expect("load ")
    terminal.expect("> ")
    os.write(terminal.master, b"caf\xe9\n")
    assert "not UTF-8" in terminal.expect("hint") + terminal.expect("> ")
    terminal.send("\x04")
    assert terminal.close() == 0


def test_a_system_message_without_room(chat) -> None:
    """It was taken, and every message was too long afterwards."""
    terminal = chat("-c", 64, *GREEDY)
    terminal.ask("/system Be brief.")
    said = terminal.ask("/system " + "long " * 70)
    assert "no room for a question" in said and "--context" in said
    assert "Be brief." in terminal.ask("/system")
    wide = chat("-c", 256, *GREEDY)
    assert "is set" in wide.ask("/system " + "long " * 70)
