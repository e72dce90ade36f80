"""What is read of the conversations of people and chat front ends (open-webui 9506)."""

import pytest

from routers.text import read_request
from tests.routers.conversations import Case, assistant, part, user

RAG_TEMPLATE = (
    "### Task:\nRespond to the user query using the provided context, incorporating inline "
    "citations in the format [id].\n\n### Guidelines:\n- If you don't know, clearly state "
    "that.\n- Do not use XML tags in your response.\n\n### Output:\nProvide a clear answer.\n\n"
    '<context>\n<source id="1">The lease ends on 31 May.</source>\n</context>'
)
LOG = "".join(
    f"2026-09-23T10:{i // 60:02}:{i % 60:02}Z worker-{i % 7} WARN pool timeout after {i} ms\n"
    for i in range(2_000)
)

CASES = [
    Case(
        "open webui: retrieval template before the question",
        [user(f"{RAG_TEMPLATE}\n\nWhen do I have to give notice to leave by the end of May?")],
        "When do I have to give notice to leave by the end of May?",
        ("environment",),
    ),
    Case(
        "open webui: retrieval template round the question",
        [user(f"{RAG_TEMPLATE}\n\n<user_query>\nWhen does my lease end?\n</user_query>")],
        "When does my lease end?",
        ("environment",),
    ),
    Case(
        "open webui: a title is asked for, not what the chat is about",
        [
            user(
                "### Task:\nGenerate a concise, 3-5 word title summarizing the chat "
                "history.\n### Chat History:\n<chat_history>\nUSER: Prove Fermat's little theorem\n"
                "ASSISTANT: Let p be prime ...\n</chat_history>"
            )
        ],
        "### Task:\nGenerate a concise, 3-5 word title summarizing the chat history.\n"
        "### Chat History:",
        ("history",),
    ),
    Case(
        "llamaindex: question answering template",
        [
            user(
                "Context information is below.\n---------------------\nAspirin inhibits COX-1.\n"
                "---------------------\nGiven the context information and not prior knowledge, "
                "answer the query.\nQuery: Which enzyme does aspirin inhibit?\nAnswer: "
            )
        ],
        "Which enzyme does aspirin inhibit?\nAnswer:",
    ),
    Case(
        "chat: a chain of follow-ups",
        [
            user("What is the boiling point of ethanol at sea level?"),
            assistant("78.4 °C."),
            user("and in Fahrenheit?"),
            assistant("173.1 °F."),
            user("why so low?"),
        ],
        "What is the boiling point of ethanol at sea level?\nand in Fahrenheit?\nwhy so low?",
    ),
    Case(
        "chat: the assistant's offer is taken up",
        [
            user("hi"),
            assistant("Hello! Do you want help with your tax return or with your lease?"),
            user("the lease"),
        ],
        "hi\nHello! Do you want help with your tax return or with your lease?\nthe lease",
    ),
    Case(
        "chat: a new subject after much code",
        [
            user("Write a binary search in Java."),
            assistant("```java\nint search(int[] a, int k) { ... }\n```"),
            user("now with generics"),
            assistant("```java\n<T> int search(List<T> a, T k)\n```"),
            user("Can my landlord keep my deposit for normal wear and tear in Ohio?"),
        ],
        "Can my landlord keep my deposit for normal wear and tear in Ohio?",
    ),
    Case(
        "chat: an essay in one turn, the request in the next",
        [
            user("The causes of the First World War are many: alliances, ..."),
            user("grade it please"),
        ],
        "The causes of the First World War are many: alliances, ...\ngrade it please",
    ),
    Case(
        "chat: thanks goes where the talk was",
        [user("How is sepsis treated in adults?"), assistant("Fluids ..."), user("Thanks!")],
        "How is sepsis treated in adults?\nThanks!",
    ),
    Case(
        "chat: a picture and a question that leans on it",
        [
            user("I have had a rash on my arm for two weeks."),
            assistant("Could you show it?"),
            user(
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}}, part("here it is")
            ),
        ],
        "I have had a rash on my arm for two weeks.\nhere it is",
        ("image",),
    ),
    Case(
        "chat: German, then a short question back",
        [
            user("Schreibe eine Funktion, die Primzahlen in Python ausgibt."),
            assistant("def primzahlen(n): ..."),
            user("Und warum?"),
        ],
        "Schreibe eine Funktion, die Primzahlen in Python ausgibt.\nUnd warum?",
    ),
    Case(
        "chat: Chinese, then one word",
        [user("用简单的话解释一下量子纠缠是什么。"), assistant("量子纠缠是……"), user("继续")],
        "用简单的话解释一下量子纠缠是什么。\n继续",
    ),
    Case(
        "chat: the human's own markup, fenced",
        [
            user(
                "Why is this rejected by the validator?\n```xml\n<rules>\n  <prompt>a</prompt>\n"
                "</rules>\n<context>b</context>\n```"
            )
        ],
        "Why is this rejected by the validator?\n```xml\n<rules>\n  <prompt>a</prompt>\n"
        "</rules>\n<context>b</context>\n```",
    ),
    Case(
        "chat: a human's own bracketed heading is no tool result",
        [user("[staging] Result: 502 from the payment service since noon, what do I check first?")],
        "[staging] Result: 502 from the payment service since noon, what do I check first?",
    ),
    Case(
        "chat: talk about tags, quoted",
        [user("What is the difference between `<context>` and `</context>` in Camel routes?")],
        "What is the difference between `<context>` and `</context>` in Camel routes?",
    ),
    Case(
        "chat: a prompt that the human wrote with tags",
        [user("<task>Translate to French.</task>\n<text>The cat sat on the mat.</text>")],
        "Translate to French.\n<text>The cat sat on the mat.</text>",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_a_person_asked_is_read(case: Case) -> None:
    request = read_request(case.messages)
    assert request.text == case.text
    assert set(case.set_aside) <= set(request.read.set_aside)


@pytest.mark.parametrize(
    "question", ["Why do the workers time out?", "Count the timeouts by worker."]
)
def test_the_question_about_a_long_log_is_read_at_either_end(question: str) -> None:
    for content in (f"{question}\n{LOG}", f"{LOG}\n{question}"):
        request = read_request([user(content)])
        assert question in request.text
        assert "pool timeout" in request.text
        assert request.read.chars_left_out > 100_000
