"""Ollama's description of a GGUF file: where it lies, its chat template in Go's language, its ends, its licence.

Ollama does not run Jinja. A template that says the same of every turn, as ChatML, Llama 3's and Gemma's do, is put together of
what it writes before and after a turn of each role, which is read off conversations that it renders. What is put together
must render the same conversations to the letter, or there is no Modelfile: a wrong template answers wrongly without a word.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leanpipe.core.files import write_text
from leanpipe.export.provenance import licence
from leanpipe.models.load import leading_bos
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

MODELFILE = "Modelfile"
_SYSTEM, _USER, _ANSWER = "leanpipe-system", "leanpipe-question", "leanpipe-answer"
Turns = Sequence[tuple[str, str]]


class Around(NamedTuple):
    """What a template writes before and after the content of a turn."""

    before: str
    after: str


class TurnTemplate(NamedTuple):
    """A template that says the same of every turn of a role."""

    begin: str
    """Before everything: the BOS, where the tokenizer itself puts none."""
    user: Around
    assistant: Around
    system: Around | None
    """None where the template takes no system's turn."""
    in_user: bool
    """Whether the system's turn stands within the user's first one."""
    default: str
    """What it says as the system where nobody does."""
    asks: str
    """What comes before an answer."""

    def render(self, turns: Turns) -> str:
        """Render a conversation up to where the answer begins, as Ollama does by `go`."""
        if self.default and turns[0][0] != "system":
            turns = [("system", self.default), *turns]
        told, said = turns[0][1] if turns[0][0] == "system" else "", self.begin
        for place, (role, content) in enumerate(turns):
            if role == "system":
                said += content.join(self.system) if self.system and not self.in_user else ""
                continue
            around = self.user if role == "user" else self.assistant
            inside = told + self.system.after if self.system and self.in_user and told and place == 1 else ""
            said += around.before + inside + content + around.after
        return said + self.asks

    def go(self) -> str:
        """Write it in the language of Go's templates."""
        inside = ""
        if self.in_user and self.system:
            inside = f"{{{{ if and $.System (eq $i 1) }}}}{{{{ $.System }}}}{self.system.after}{{{{ end }}}}"
        system = ""
        if self.system and not self.in_user:
            system = f'{{{{ if eq .Role "system" }}}}{"{{ .Content }}".join(self.system)}{{{{ end }}}}'
        user = f'{{{{ if eq .Role "user" }}}}{self.user.before}{inside}{{{{ .Content }}}}{self.user.after}{{{{ end }}}}'
        answer = f'{{{{ if eq .Role "assistant" }}}}{"{{ .Content }}".join(self.assistant)}{{{{ end }}}}'
        return (
            f"{self.begin}{{{{ range $i, $_ := .Messages }}}}{system}{user}{answer}{{{{ end }}}}{self.asks}"
        )


def write_modelfile(folder: Path, tokenizer: "PreTrainedTokenizerBase", source: "PreTrainedModel") -> bool:
    """Write a Modelfile beside the GGUF file in `folder`; say in the log why there is none, if its template is not turn by turn."""
    text = modelfile(tokenizer, ends_of(tokenizer, source), licence(Path(source.name_or_path)))
    if text is None:
        log.info(
            "%s: no Modelfile is written, for this chat template is more than the same for every turn, and Ollama runs no "
            "Jinja: write its TEMPLATE by hand",
            folder.name,
        )
        return False
    write_text(folder / MODELFILE, text)
    return True


def modelfile(tokenizer: "PreTrainedTokenizerBase", ends: Sequence[str], licensed: str = "") -> str | None:
    """Return the Modelfile of a model with this tokenizer, whose answers end at `ends`; None if its template cannot be said."""
    lines = [f"FROM ./{GGUF_FILE}"]
    if not tokenizer.chat_template:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    else:
        found = turn_template(tokenizer)
        if found is None:
            return None
        lines.append(f'TEMPLATE """{found.go()}"""')
        if found.default:
            lines.append(f'SYSTEM """{found.default}"""')
    lines += [f'PARAMETER stop "{end}"' for end in ends]
    if licensed:
        lines.append(f'LICENSE """{licensed}"""')
    return "\n".join(lines) + "\n"


def ends_of(tokenizer: "PreTrainedTokenizerBase", source: "PreTrainedModel") -> list[str]:
    """Spell the tokens at which an answer ends, by the generation config and the tokenizer."""
    own: Any = source.generation_config.eos_token_id if source.generation_config else None
    ids = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    spelt = [str(tokenizer.convert_ids_to_tokens(one)) for one in ids if one is not None]
    return [one for one in dict.fromkeys(spelt) if '"' not in one]


def turn_template(tokenizer: "PreTrainedTokenizerBase") -> TurnTemplate | None:
    """Put the tokenizer's chat template together of turns; None if it is more, or holds what Go's language would read."""
    try:
        found = _read_off(tokenizer)
    except ValueError:  # a part is not where it should be
        return None
    if found is None or any("{{" in text or '"""' in text for text in _texts(found)):
        return None
    spoken: list[Turns] = [
        [("user", "One?")],
        [("user", "One?"), ("assistant", "Two."), ("user", "And\n\nthree?")],
    ]
    if found.system:
        spoken += [[("system", "Be brief."), *turns] for turns in spoken]
    begin = _bos(tokenizer) if leading_bos(tokenizer) is not None else ""
    same = all(begin + found.render(turns) == _rendered(tokenizer, turns, True) for turns in spoken)
    return found if same else None


def _read_off(tokenizer: "PreTrainedTokenizerBase") -> TurnTemplate | None:
    asked = _rendered(tokenizer, [("user", _USER)])
    both = _rendered(tokenizer, [("user", _USER), ("assistant", _ANSWER)])
    again = _rendered(tokenizer, [("user", _USER), ("assistant", _ANSWER), ("user", "leanpipe-again")])
    waiting = _rendered(tokenizer, [("user", _USER)], True)
    if not (asked and both and again and waiting):
        return None
    start, after_user = _split(asked, _USER)
    before_answer = _without(_split(_split(both, _USER)[1], _ANSWER)[0], after_user)
    after_answer = _split(both, _ANSWER)[1]
    user = Around(_without(_split(_split(again, _ANSWER)[1], "leanpipe-again")[0], after_answer), after_user)
    assistant = Around(before_answer, after_answer)
    asks = _without(_split(waiting, _USER)[1], after_user)
    first = start.removesuffix(user.before) if start.endswith(user.before) else None
    if first is None:
        return None
    bos = _bos(tokenizer)
    # Some models' BOS is also how every turn begins: then it is the turn's.
    begins = bos if bos and first.startswith(bos) and not user.before.startswith(bos) else ""
    rest = first.removeprefix(begins)
    system, in_user = _system(tokenizer, begins, user)
    default = ""
    if rest:
        if not system or in_user or not (rest.startswith(system.before) and rest.endswith(system.after)):
            return None
        default = rest.removeprefix(system.before).removesuffix(system.after)
    begin = "" if leading_bos(tokenizer) is not None else begins
    return TurnTemplate(begin, user, assistant, system, in_user, default, asks)


def _system(tokenizer: "PreTrainedTokenizerBase", begins: str, user: Around) -> tuple[Around | None, bool]:
    """What stands around a system's turn, and whether that is within the user's."""
    told = _rendered(tokenizer, [("system", _SYSTEM), ("user", _USER)])
    if not told or _SYSTEM not in told:
        return None, False
    before, rest = _split(told, _SYSTEM)
    between, before = _split(rest, _USER)[0], _without(before, begins)
    if between.endswith(user.before):
        return Around(before, between.removesuffix(user.before)), False
    return (Around(before, between), True) if before == user.before else (None, False)


def _rendered(tokenizer: "PreTrainedTokenizerBase", turns: Turns, asks: bool = False) -> str:
    """The template's text; empty if it refuses the conversation."""
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks))
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        log.debug("the chat template refuses %s: %s", [role for role, _ in turns], error)
        return ""


def _split(text: str, mark: str) -> tuple[str, str]:
    """What is before and after the mark, which must be there once."""
    before, found, after = text.partition(mark)
    if not found or mark in after:
        raise ValueError(mark)
    return before, after


def _without(text: str, beginning: str) -> str:
    if not text.startswith(beginning):
        raise ValueError(beginning)
    return text.removeprefix(beginning)


def _bos(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The BOS as it is spelt; empty if there is none."""
    return str(tokenizer.bos_token) if tokenizer.bos_token else ""


def _texts(found: TurnTemplate) -> list[str]:
    around = [found.user, found.assistant, *([found.system] if found.system else [])]
    return [found.begin, found.default, found.asks, *(text for one in around for text in one)]
