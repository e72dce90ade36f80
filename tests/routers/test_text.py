"""What of a conversation is classified."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.text import (
    ASSISTANT_TAIL_CHARS,
    EARLIER_TURN_CHARS,
    MAX_CHARS,
    MAX_EARLIER_TURNS,
    read_request,
)
from tests.routers.conversations import Message, assistant, part, system, tool, user

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_a_plain_prompt_is_read_as_it_is() -> None:
    request = read_request([user("Integrate x^2 from 0 to 3.")])
    assert request.text == "Integrate x^2 from 0 to 3."
    assert request.read.turns == (0,)
    assert request.read.set_aside == ()
    assert request.read.chars_total == request.read.chars_read == 26
    assert request.read.chars_left_out == 0


def test_the_last_user_turn_is_the_request() -> None:
    messages = [
        system("You are helpful."),
        user("Write a haiku about rain."),
        assistant("Soft rain ..."),
        user("Which enzyme unwinds DNA during replication?"),
    ]
    request = read_request(messages)
    assert request.text == "Which enzyme unwinds DNA during replication?"
    assert request.read.turns == (3,)
    assert request.read.set_aside == ("system",)
    assert request.read.chars_total == sum(len(m["content"]) for m in messages)


TOPIC = "Write a Python function that merges two sorted lists."


@pytest.mark.parametrize(
    "follow_up",
    [
        "now do it in Rust",
        "commit it",
        "why?",
        "Why does that happen?",
        "and in Haskell?",
        "in Rust please",
        "continue",
        "Yes, go ahead.",
        "fix the failing test",
        "add error handling",
        "Can you explain what this does line by line?",
        "What about the other one you mentioned?",
        "The second one is wrong, isn't it?",
        "use a generator instead",
        "make it shorter",
        "I don't get that.",
        "为什么?",
        "shorter",
        "👍",
        "how so?",
        "why so slow?",
        "What about Haskell?",
        "more formal please",
        "not quite what I meant",
        "explain the second one",
        "Can you rewrite it so that it uses async and handles errors properly?",
        "Does that also work for lists of different length?",
        "You\u2019re sure that's right?",
        "Do the same for dictionaries.",
        "give me three more examples",
        "any other ideas?",
        "Und jetzt das Ganze bitte in Rust",
        "Ahora en Rust, por favor, y con pruebas",
        "Maintenant en Rust avec des tests",
        "Теперь перепиши функцию на Rust",
        "现在用Rust语言重写这个函数并加上测试",
        "2",
    ],
)
def test_a_request_that_leans_comes_after_the_turn_it_leans_on(follow_up: str) -> None:
    messages = [user(TOPIC), assistant("def merge(a, b): ..."), user(follow_up)]
    request = read_request(messages)
    assert request.text == f"{TOPIC}\n{follow_up}"
    assert request.read.turns == (0, 2)


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of France?",
        "Write a function that reverses a linked list.",
        "Who wrote Don Quixote, and when was the book published?",
        "Prove that the square root of 2 is irrational.",
        "List three side effects of ibuprofen.",
        "What are the elements of a valid contract?",
        "How do I cook rice without a rice cooker?",
        "法国的首都是哪个城市?",
        "¿Cuál es la capital de Francia?",
        "Fix:\n```python\nprint(x\n```",
        "Translate this to English: Der Hund schläft auf dem Sofa.",
        "Design a schema for a library that lends books and tracks its members.",
        "How long did the Hundred Years' War last, and who won it in the end?",
    ],
)
def test_a_request_that_stands_alone_is_read_alone(prompt: str) -> None:
    request = read_request([user(TOPIC), assistant("def merge(a, b): ..."), user(prompt)])
    assert request.text == prompt
    assert request.read.turns == (2,)


def test_leaning_turns_are_followed_back_to_one_that_stands_alone() -> None:
    messages = [
        user("Explain the causes of the French Revolution."),
        user(TOPIC),
        assistant("def merge(a, b): ..."),
        user("now do it in Rust"),
        assistant("fn merge(..) { .. }"),
        user("why?"),
    ]
    assert read_request(messages).read.turns == (1, 3, 5)


def test_leaning_turns_are_followed_back_only_so_far() -> None:
    messages = [user(TOPIC)] + [user("again")] * 20
    assert len(read_request(messages).read.turns) == 1 + MAX_EARLIER_TURNS


def test_an_answer_is_read_when_no_user_turn_says_more() -> None:
    answer = "Hello! " + "word " * 400 + "Shall I write the SQL migration for the users table?"
    request = read_request([user("hi"), assistant(answer), user("yes please")])
    assert request.text.startswith("hi\nword word")
    assert request.text.endswith("migration for the users table?\nyes please")
    assert request.read.turns == (0, 1, 2)
    assert len(request.text) <= ASSISTANT_TAIL_CHARS + len("hi\n\nyes please")
    assert request.read.chars_left_out == len(answer) - (
        len(request.text) - len("hi\n\nyes please")
    )


def test_attached_text_is_read_when_nothing_else_says_more() -> None:
    request = read_request(
        [user("<file_contents>\nSELECT name FROM users;\n</file_contents>\nexplain this")]
    )
    assert request.text == "SELECT name FROM users;\nexplain this"
    assert request.read.set_aside == ("attachment",)


def test_reminders_are_not_read_even_where_a_request_leans() -> None:
    request = read_request([user("<system-reminder>Use TypeScript.</system-reminder>\nhi")])
    assert request.text == "hi"
    assert request.read.set_aside == ("reminder",)


def test_tool_results_are_set_aside_and_the_human_is_looked_for_before_them() -> None:
    messages = [
        user("Why does the login test fail in auth.py?"),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]},
        tool("AssertionError: 401 != 200"),
        user(
            {"type": "tool_result", "content": "exit 1"},
            part("<system-reminder>x</system-reminder>"),
        ),
    ]
    request = read_request(messages)
    assert request.text == "Why does the login test fail in auth.py?"
    assert request.read.set_aside == ("reminder", "tool_result")


def test_list_content_is_read_and_parts_without_text_are_stated() -> None:
    content = [
        part("What is wrong"),
        IMAGE,
        {"type": "input_audio", "input_audio": {}},
        {"type": "file", "file": {}},
        {"type": "hologram"},
        part("in these pictures of my knee?"),
    ]
    request = read_request([{"role": "user", "content": content}])
    assert request.text == "What is wrong\nin these pictures of my knee?"
    assert request.read.set_aside == ("audio", "file", "image", "other")


def test_wrapped_text_is_used_where_nothing_else_is_left() -> None:
    reminder = "<system-reminder>The todo list is empty.</system-reminder>"
    assert read_request([user(reminder)]).text == reminder


def test_a_system_message_is_used_where_no_user_speaks() -> None:
    assert read_request([system("Tell a joke."), assistant("")]).text == "Tell a joke."


@pytest.mark.parametrize(
    "messages",
    [[], [user(None)], [user("")], [user([])], [user(IMAGE)], [{"role": "user"}], [{}], [user(7)]],
)
def test_no_text_gives_an_empty_request(messages: list[Message]) -> None:
    request = read_request(messages)
    assert request.text == ""
    assert request.read.turns == ()
    assert request.read.chars_read == 0


def test_code_blocks_are_kept() -> None:
    prompt = "Fix this:\n```html\n<context-menu><b>x</b></context-menu>\n```"
    assert read_request([user(prompt)]).text == prompt


def test_an_unclosed_tag_is_text() -> None:
    prompt = "What does <system-reminder> mean in a Claude Code transcript, and <context>?"
    assert read_request([user(prompt)]).text == prompt


def test_nested_and_repeated_wrappers_are_set_aside_whole() -> None:
    prompt = (
        "<file_content path='a'><context>one</context> two</file_content>Sum the columns "
        "<SYSTEM-REMINDER>x</system-reminder>of the sheet.<system-reminder>y</system-reminder>"
    )
    assert read_request([user(prompt)]).text == "Sum the columns of the sheet."


def test_a_long_request_is_read_from_both_ends_between_words() -> None:
    words = [f"w{i}" for i in range(20_000)]
    prompt = " ".join(words)
    request = read_request([user(prompt)])
    head, tail = request.text.split("\n…\n")
    kept = head.split() + tail.split()
    assert len(request.text) <= MAX_CHARS + len("\n…\n")
    assert len(request.text) > MAX_CHARS - 100
    assert kept == words[: len(head.split())] + words[-len(tail.split()) :]
    assert request.read.chars_left_out == len(prompt) - len(head) - len(tail)
    assert request.read.chars_total == len(prompt)


def test_a_long_request_without_spaces_is_cut_all_the_same() -> None:
    assert len(read_request([user("字" * 50_000)]).text) == MAX_CHARS + len("\n…\n")


def test_a_long_earlier_turn_is_cut_shorter() -> None:
    request = read_request([user("word " * 10_000), assistant("ok"), user("now sort it")])
    assert len(request.text) <= EARLIER_TURN_CHARS + len("\n…\n") + len("\nnow sort it")
    assert request.text.endswith("\nnow sort it")


def test_lone_surrogates_are_replaced() -> None:
    assert read_request([user("a\ud800b and more words")]).text == "a\ufffdb and more words"


any_text = st.text("ab<>/ \n`'\x00\u5b57\ud800", max_size=10)
snippets = st.sampled_from(
    [
        *(
            "<context>",
            "</context>",
            "<task>",
            "</task>",
            "<system-reminder>",
            "</system-reminder>",
        ),
        *(
            "[read_file for 'a'] Result:",
            "# AGENTS.md instructions",
            "why?",
            "Sort a list in Rust.",
        ),
    ]
)
texts = st.lists(snippets | any_text, max_size=12).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(any_text, inner, max_size=2),
    max_leaves=3,
)
types = st.sampled_from(["text", "image_url"]) | json_values
roles = st.sampled_from(["user", "assistant", "system", "tool"]) | json_values
parts = st.fixed_dictionaries({}, optional={"type": types, "text": texts | json_values})
contents = texts | st.lists(parts | json_values, max_size=4) | json_values
turns = st.fixed_dictionaries({}, optional={"role": roles, "content": contents})


@given(st.lists(turns, max_size=6))
def test_any_decoded_messages_are_read_and_the_statement_adds_up(messages: list[Message]) -> None:
    request = read_request(messages)
    read = request.read
    request.text.encode()
    assert request == read_request(messages)
    assert read.chars_read == len(request.text)
    assert list(read.turns) == sorted(set(read.turns))
    assert all(0 <= turn < len(messages) for turn in read.turns)
    assert bool(read.turns) == bool(request.text)
    assert 0 <= read.chars_left_out <= read.chars_total


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "<",
            "</",
            "<context",
            "<context ",
            "<context>",
            "</context>",
            "<context><task>",
            "<task>",
        ),
        *("<b>", "[a for '", "[a for ''", "that ", "a'", "\u5b57", "x", "\n"),
    ],
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    # Quadratic time over 5 MB would be hours; the limit is only there to end it.
    script = """
import sys
from routers.text import read_request
text = "x" + sys.argv[1] * (5_000_000 // len(sys.argv[1]))
closed = text + "</task>" * 1000 + "</context>" * 1000
for content in (text, closed):
    assert read_request([{"role": "user", "content": content}]).text
"""
    subprocess.run([sys.executable, "-c", script, unit], check=True, timeout=60)


def test_many_turns_take_linear_time() -> None:
    turns = [user("<context>x</context>")] * 20_000
    assert read_request([user(TOPIC), *turns]).read.turns == (0,)
    assert read_request(turns).read.turns == (19_999,)
