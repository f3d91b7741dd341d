"""Rendering, encoding and decoding with a family's own files."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers

import runtime
from runtime.errors import BundleError
from runtime.prompt import DETECT_TYPES, Tokenizer, user_content
from tests.prompt.families import FAMILIES, POINT_TOKENS, PromptFiles, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(files: PromptFiles) -> Tokenizer:
    return Tokenizer.load(files.folder, files.spec)


@pytest.mark.parametrize("detect_type", DETECT_TYPES)
def test_render_gives_the_text_the_model_was_trained_with(
    files: PromptFiles, tokenizer: Tokenizer, detect_type: str
) -> None:
    content = user_content(detect_type, [])
    assert tokenizer.render(content) == FAMILIES[files.name].rendered.replace("{content}", content)


def test_encode_prompt_is_the_rendered_text_and_nothing_else(files: PromptFiles, tokenizer: Tokenizer) -> None:
    content = user_content("all", [])
    ids = tokenizer.encode_prompt(content)
    assert (ids.dtype, ids.ndim) == (np.int32, 1)
    assert tokenizer.decode(ids, skip_special_tokens=False) == tokenizer.render(content)
    spec = files.spec
    for token_id in (spec.point_start_token_id, spec.point_end_token_id, spec.point_token_id):
        assert (ids == token_id).sum() == 1


def test_encode_prompt_adds_no_tokens_of_the_post_processor(files: PromptFiles, tmp_path: Path) -> None:
    """Llama's tokenizer puts a begin token before every text, and the template has written one already."""
    library = tokenizers.Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    first = FAMILIES[files.name].chat_tokens[0]
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, library.token_to_id(first))]
    )
    got = load_with(library, files, tmp_path).encode_prompt(user_content("all", []))
    assert got.tolist() == Tokenizer.load(files.folder, files.spec).encode_prompt(user_content("all", [])).tolist()


def test_limits_in_the_file_do_not_cut_or_fill_up_the_prompt(files: PromptFiles, tmp_path: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    want = Tokenizer.load(files.folder, files.spec).encode_prompt(user_content("all", [])).tolist()
    library.enable_truncation(max_length=10)
    assert load_with(library, files, tmp_path).encode_prompt(user_content("all", [])).tolist() == want
    library.no_truncation()
    library.enable_padding(length=5000)
    assert load_with(library, files, tmp_path).encode_prompt(user_content("all", [])).tolist() == want


def load_with(library: tokenizers.Tokenizer, files: PromptFiles, folder: Path) -> Tokenizer:
    library.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_bytes((files.folder / "chat_template.jinja").read_bytes())
    return Tokenizer.load(folder, files.spec)


def test_decode_skips_special_tokens_when_asked(files: PromptFiles, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_prompt("wall_0=Wall(1,2)")
    assert tokenizer.decode(ids, skip_special_tokens=False) == tokenizer.render("wall_0=Wall(1,2)")
    text = tokenizer.decode(ids)
    assert "wall_0=Wall(1,2)" in text
    assert not any(token in text for token in (*POINT_TOKENS, *FAMILIES[files.name].chat_tokens))
    assert tokenizer.decode([]) == ""


def test_the_system_message_comes_from_the_spec(files: PromptFiles) -> None:
    with_one = Tokenizer.load(files.folder, replace(files.spec, system_message="Be brief."))
    without = Tokenizer.load(files.folder, replace(files.spec, system_message=None))
    assert "Be brief." in with_one.render("x")
    assert "system" not in without.render("x")


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_a_sentence(files: PromptFiles, tmp_path: Path, name: str) -> None:
    load_with(train_tokenizer(()), files, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=rf"{tmp_path}: there is no {name}, .* Export it again"):
        Tokenizer.load(tmp_path, files.spec)


@pytest.mark.parametrize("content", [b"", b"not json", b"{}", b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_is_a_sentence(files: PromptFiles, tmp_path: Path, content: bytes) -> None:
    load_with(train_tokenizer(()), files, tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer this runtime can read"):
        Tokenizer.load(tmp_path, files.spec)


def test_a_tokenizer_that_is_not_byte_level_is_a_sentence(files: PromptFiles, tmp_path: Path) -> None:
    library = train_tokenizer(())
    library.decoder = tokenizers.decoders.Metaspace()
    with pytest.raises(BundleError, match="the decoder is Metaspace, but ByteLevel was expected"):
        load_with(library, files, tmp_path)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (b"{% for m in messages %}", r"chat_template\.jinja: line 1 is not valid Jinja"),
        (b"ok\n{{ unclosed", r"chat_template\.jinja: line 2 is not valid Jinja"),
        (b"\xff", r"chat_template\.jinja: cannot be read as text"),
    ],
)
def test_a_broken_template_is_a_sentence(files: PromptFiles, tmp_path: Path, template: bytes, sentence: str) -> None:
    load_with(train_tokenizer(()), files, tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(template)
    with pytest.raises(BundleError, match=sentence):
        Tokenizer.load(tmp_path, files.spec)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('system role not supported') }}", "TemplateError: system role not supported"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages[9].content.text }}", "UndefinedError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    ],
)
def test_a_template_that_fails_is_a_sentence(files: PromptFiles, tmp_path: Path, template: str, reason: str) -> None:
    tokenizer = with_template(files, tmp_path, template)
    with pytest.raises(BundleError, match=rf"chat_template\.jinja: the template failed on the prompt \({reason}"):
        tokenizer.render("x")


def with_template(files: PromptFiles, folder: Path, template: str) -> Tokenizer:
    (folder / "tokenizer.json").write_bytes((files.folder / "tokenizer.json").read_bytes())
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Tokenizer.load(folder, files.spec)


RICH_TEMPLATE = """
{%- set space = namespace(count=0) %}
{% for message in messages %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
    {% set space.count = space.count + 1 %}
    {% generation %}{{ message | tojson }}#{{ message.content | tojson(indent=2) }}{% endgeneration %}
{% endfor %}
{{ space.count }}#{{ tools is none }}#{{ documents is none }}#{{ unknown }}#{{ strftime_now('%Y') | length }}#
{{- bos_token }}
"""


def test_what_hub_templates_rely_on(files: PromptFiles, tmp_path: Path) -> None:
    content = 'a "b" <c> é'
    want_json = json.dumps({"role": "user", "content": content}, ensure_ascii=False)
    got = with_template(files, tmp_path, RICH_TEMPLATE).render(content)
    assert got.split("#")[0].strip() == want_json
    bos_token = files.spec.bos_token or ""  # never the word None
    assert got.split("#")[1:] == ['"a \\"b\\" <c> é"1', "True", "True", "", "4", bos_token]


@pytest.mark.parametrize("template", ["the family's own", RICH_TEMPLATE])
def test_rendering_and_ids_equal_transformers(files: PromptFiles, tmp_path: Path, template: str) -> None:
    transformers = pytest.importorskip("transformers")
    if template != RICH_TEMPLATE:
        template = FAMILIES[files.name].template
    tokenizer = with_template(files, tmp_path, template)
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"),
        bos_token=files.spec.bos_token,
        eos_token=files.spec.eos_token,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )
    content = user_content("all", ["bed", "tv"]) + '\n "é" <b> 你'
    system = [{"role": "system", "content": files.spec.system_message}] if files.spec.system_message else []
    chat = [*system, {"role": "user", "content": content}]
    assert tokenizer.render(content) == reference.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    want = reference.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.encode_prompt(content)
    assert ids.tolist() == want
    for skip in (True, False):
        assert tokenizer.decode(ids, skip) == reference.decode(want, skip_special_tokens=skip)


def test_one_file_of_the_runtime_imports_tokenizers() -> None:
    root = Path(runtime.__file__).parent
    importers = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "tokenizers" for name in names):
                importers.add(path.relative_to(root).as_posix())
    assert importers == {"prompt/tokenizer.py"}
