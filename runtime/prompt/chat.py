"""The checkpoint's own chat template, rendered as transformers renders it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.errors import BundleError

FILE_NAME = "chat_template.jinja"


class ChatTemplate:
    """A compiled chat template. Templates come with checkpoints and are foreign code: they run in a sandbox."""

    def __init__(self, template: jinja2.Template, path: Path) -> None:
        self._template = template
        self._path = path

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """Read and compile `chat_template.jinja` of a bundle. Raises BundleError."""
        path = folder / FILE_NAME
        try:
            return cls(_environment().from_string(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError as error:
            raise BundleError(f"{folder}: there is no {FILE_NAME}, but a bundle has one. Export it again.") from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: cannot be read as text ({error}). Export the bundle again.") from error
        except jinja2.TemplateSyntaxError as error:
            raise BundleError(
                f"{path}: line {error.lineno} is not valid Jinja ({error.message}). "
                "Correct the checkpoint's chat template and export again."
            ) from error

    def render(self, messages: Sequence[dict[str, str]], bos_token: str | None, eos_token: str | None) -> str:
        """The whole prompt as text, the opening of the answer included. Raises BundleError if the template fails."""
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        given = {name: token for name, token in tokens.items() if token is not None}  # a missing one renders as nothing
        try:
            return self._template.render(
                messages=list(messages), tools=None, documents=None, add_generation_prompt=True, **given
            )
        except Exception as error:  # a template can do anything, and fail with anything
            raise BundleError(
                f"{self._path}: the template failed on the prompt ({type(error).__name__}: {error}). "
                "Correct the checkpoint's chat template and export again."
            ) from error


def _environment() -> ImmutableSandboxedEnvironment:
    """Blocks, filters and globals that templates on the Hugging Face hub rely on."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json  # Jinja's own escapes <, > and & for HTML
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's words for training; here it only renders what it holds."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)
