"""Ollama's Modelfile says the same of conversations as the chat template it was made of, or there is none."""

import copy
import re

import pytest

from leanpipe.export.modelfile import modelfile, turn_template, write_modelfile
from tests.evaluation.parity.trained import tokenizer_with_bos
from tests.support.tiny_models import CHATML, SEPARATOR, tiny_llama, tiny_tokenizer

LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
SMOLLM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n{% endif %}"
    + CHATML
)
_GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{% if loop.first and first %}{{ first }}\n\n{% endif %}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + _GEMMA
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% endif %}" + _GEMMA
)
DATED = CHATML.replace("{% for", "{{ 'Turns: ' ~ messages | length }}{% for", 1)
CONVERSATIONS = (
    [("user", "One?")],
    [("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four"), ("user", "Five")],
    [("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")],
)


def of(template: str, with_bos: bool = False):
    tokenizer = copy.deepcopy(tokenizer_with_bos() if with_bos else tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def rendered_by_go(go: str, turns) -> str:
    """What Go makes of a template: its words as Jinja's, which have the same meaning."""
    from jinja2 import Template

    words = {
        "range $i, $_ := .Messages": "{% for m in messages %}",
        ".Content": "{{ m.content }}",
        "$.System": "{{ system }}",
        "if and $.System (eq $i 1)": "{% if system and loop.index0 == 1 %}",
    }
    opened, said = [], ""
    for text, word in re.findall(r"((?:(?!\{\{).)*)(?:\{\{ (.*?) \}\}|$)", go, re.S):
        said += text
        if role := re.fullmatch(r'if eq \.Role "(\w+)"', word):
            said += f"{{% if m.role == '{role[1]}' %}}"
        else:
            said += "{% " + opened.pop() + " %}" if word == "end" else words.get(word, word)
        if word.startswith(("if", "range")):
            opened.append("endif" if word.startswith("if") else "endfor")
    messages = [{"role": role, "content": content} for role, content in turns]
    system = turns[0][1] if turns[0][0] == "system" else ""
    return Template(said, keep_trailing_newline=True).render(messages=messages, system=system)


@pytest.mark.parametrize(
    ("template", "with_bos"),
    [(CHATML, False), (LLAMA_3, True), (LLAMA_3, False), (GEMMA, True), (GEMMA_3, True), (SMOLLM, False)],
    ids=["ChatML", "Llama 3", "Llama 3, BOS by template alone", "Gemma", "Gemma 3", "SmolLM"],
)
def test_what_ollama_renders_is_what_the_model_was_trained_on(template, with_bos):
    tokenizer = of(template, with_bos)
    found = turn_template(tokenizer)
    assert found is not None
    for turns in CONVERSATIONS:
        if turns[0][0] == "system" and found.system is None:
            continue
        messages = [{"role": role, "content": content} for role, content in turns]
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if with_bos:  # llama.cpp puts it, as the file says
            wanted = wanted.removeprefix(tokenizer.bos_token)
        if found.default and turns[0][0] != "system":  # Ollama puts its SYSTEM before them
            turns = [("system", found.default), *turns]
        assert rendered_by_go(found.go(), turns) == wanted


def test_a_modelfile_has_the_file_the_ends_and_the_licence():
    text = modelfile(of(SMOLLM), ["<|im_end|>", SEPARATOR], "apache-2.0")
    assert text is not None and text.startswith('FROM ./model.gguf\nTEMPLATE """{{ range')
    assert 'SYSTEM """You are a helpful AI assistant"""' in text
    assert text.endswith(
        f'PARAMETER stop "<|im_end|>"\nPARAMETER stop "{SEPARATOR}"\nLICENSE """apache-2.0"""\n'
    )


@pytest.mark.parametrize("template", [DATED, CHATML.replace("<|im_end|>", "{{ '{{' }}")])
def test_a_template_that_is_more_than_turns_gets_none(template, tmp_path, caplog):
    caplog.set_level("INFO")
    assert not write_modelfile(tmp_path, of(template), tiny_llama())
    assert not list(tmp_path.iterdir()) and "write its TEMPLATE by hand" in caplog.text
