import gzip
import json

import pytest

from leanpipe.core.errors import UserError
from leanpipe.training.finetune.instructions import Conversation, read_instructions, to_conversation


def to_messages(record):
    conversation = to_conversation(record)
    return conversation and conversation.messages


ASKED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": ASKED},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": ASKED},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": ASKED[:1], "completion": ASKED[1:]},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "output": "Hello", "history": []},
        {"instruction": "Hi", "context": "", "response": "Hello"},
        {"question": "Hi", "answer": "Hello"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                ASKED[1],
            ]
        },
    ],
)
def test_the_usual_shapes_say_the_same(record):
    assert to_messages(record) == ASKED


def test_the_shapes_are_recognised_and_counted(tmp_path):
    records = [
        {"messages": ASKED},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"prompt": "Hi", "completion": "Hello"},
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "output": "Hello"},
        {"messages": []},
    ]
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    read = read_instructions(file)
    assert read.shapes == {"messages": 1, "sharegpt": 1, "prompt-completion": 1, "alpaca": 2}
    assert read.describe().startswith("alpaca (2), ") and read.skipped == 1


def test_alpaca_input_follows_the_instruction():
    messages = to_messages(
        {"instruction": "Translate", "input": "chat", "output": "cat", "system": "Be brief"}
    )
    assert [message["content"] for message in messages] == ["Be brief", "Translate\n\nchat", "cat"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]


def test_alpaca_history_comes_first():
    messages = to_messages({"instruction": "And 3?", "output": "9", "history": [["2 squared?", "4"]]})
    assert [message["content"] for message in messages] == ["2 squared?", "4", "And 3?", "9"]


@pytest.mark.parametrize(
    "record",
    [
        "text",
        {"text": "Hi"},
        {"messages": "Hi"},
        {"messages": []},
        {"messages": ASKED[:1]},
        {"messages": ASKED[1:]},
        {"messages": [{"role": "wizard", "content": "Hi"}, ASKED[1]]},
        {"messages": [{"role": "user", "content": None}, ASKED[1]]},
        {"conversations": ["Hi"]},
        {"conversations": {"from": "human"}},
        {"prompt": "Hi", "completion": ""},
        {"instruction": 5, "output": "Hello"},
        {"instruction": "Hi", "output": ["Hello"]},
        {"instruction": "Hi", "output": "Hello", "history": [["alone"]]},
        {"messages": [{"role": ["user"], "content": "Hi"}, ASKED[1]]},
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}, ASKED[1]]},
        {"question": "Hi", "answer": ["Hello"]},
        {"instruction": 5, "response": "Hello"},
        {"conversations": [*ASKED, {"from": "function_call", "value": "no call"}]},
    ],
)
def test_what_cannot_be_learnt_is_none(record):
    assert to_messages(record) is None


def test_broken_lines_are_skipped_and_counted(tmp_path, caplog):
    file = tmp_path / "a.jsonl"
    file.write_text(
        "\n".join(['{"prompt": "Hi", "completion": "Hello"}', "{broken", '{"text": "x"}', "", "[1]"])
    )
    read = read_instructions(file)
    assert read.conversations == [Conversation(ASKED)] and read.skipped == 3
    assert f"{file}: 3 records are no conversation" in caplog.text


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps([{"prompt": "b", "completion": "B"}]))
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "a", "completion": "A"}\n{"prompt": "c\u2028d", "completion": "A"}'
    )
    (tmp_path / "notes.txt").write_text("not read")
    read = read_instructions(tmp_path)
    assert [one.messages[0]["content"] for one in read.conversations] == ["a", "c\u2028d", "b"]


def test_json_with_a_record_per_line_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"prompt": "a", "completion": "A"}\n{"prompt": "b", "completion": "B"}')
    assert len(read_instructions(tmp_path).conversations) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"query": "a", "text": "A"}',
            "a.jsonl has the fields query, text at line 1; accepted are",
        ),
        ("a.json", '[{"messages": []}]', "a.json has the fields messages at record 1; accepted are messages"),
        ("a.jsonl", "hello", "a.jsonl has 'hello' at line 1"),
        ("a.jsonl", "", "is empty"),
        ("a.txt", "hello", "holds no .json, .jsonl, .csv, .tsv or .parquet file"),
    ],
)
def test_a_file_without_any_says_what_it_has(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_instructions(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing.json do not exist"):
        read_instructions(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps({"data": [{"question": "Hi", "answer": "Hello"}]}).encode()),
        ("a.csv", b'question,answer,more\nHi,Hello,\n"",alone,\n'),
        ("a.tsv", b"prompt\tcompletion\nHi\tHello\n"),
        ("a.csv", ('messages,source\n"' + json.dumps(ASKED).replace('"', '""') + '",web\n').encode()),
        ("a.jsonl.gz", gzip.compress(json.dumps({"messages": ASKED}).encode())),
        ("a.ndjson", json.dumps({"messages": ASKED}).encode()),
    ],
    ids=["json", "csv", "tsv", "messages in csv", "gzip", "ndjson"],
)
def test_every_kind_of_file_says_the_same(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    read = read_instructions(tmp_path)
    assert read.conversations == [Conversation(ASKED)]
    assert read.skipped == (b"alone" in content)


def test_parquet_is_read_without_the_fields_that_a_row_has_not(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    calls = [{"type": "function", "function": {"name": "add", "arguments": "{}"}}]
    rows = [ASKED, [ASKED[0], {"role": "assistant", "content": None, "tool_calls": calls}]]
    pq.write_table(pa.table({"messages": rows}), tmp_path / "a.parquet")
    first, second = read_instructions(tmp_path).conversations
    assert first.messages == ASKED
    assert second.messages[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "add", "arguments": {}}}
    ]


@pytest.mark.parametrize(("name", "content"), [("a.parquet", b"PAR1 no"), ("a.jsonl.gz", b"no gzip")])
def test_a_file_that_is_not_what_its_name_says_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} cannot be read \("):
        read_instructions(tmp_path)


def test_tools_and_their_answers_are_kept():
    tool = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}
    conversation = to_conversation(
        {
            "conversations": [
                {"from": "human", "value": "1 + 1?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 1}}'},
                {"from": "observation", "value": "2"},
                {"from": "gpt", "value": "Two."},
            ],
            "tools": json.dumps([tool]),
        }
    )
    assert conversation.tools == [{"type": "function", "function": tool}]
    assert [message["role"] for message in conversation.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation.messages[1]["tool_calls"][0]["function"] == {
        "name": "add",
        "arguments": {"a": 1, "b": 1},
    }


def test_a_developer_speaks_as_the_system():
    assert (
        to_messages({"messages": [{"role": "developer", "content": "Be brief."}, *ASKED]})[0]["role"]
        == "system"
    )
