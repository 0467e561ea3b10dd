"""A run's configuration from a preset and overrides: `section.field=value`, `objective=value`."""

from __future__ import annotations

import difflib
import json
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from spacescale.config import MODELS, Config, Section, describe_errors, kind_of
from spacescale.errors import UserError
from spacescale.presets import PRESETS

OBJECTIVE = "objective"  # the one field that stands in no section
# What no override sets, and where it comes from.
FOUND = {
    ("data", "paths"): "--data",
    ("model", "species"): "--data",
    ("model", "kind"): "--preset",
    ("model", "vocab_size"): "mlm.vocabulary",
    ("mlm", "vocabulary_sha256"): "mlm.vocabulary",
}


def nearest(name: str, known: list[str]) -> str:
    """Return ' (did you mean X?)' for the known name nearest to `name`, or ''."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def build_config(preset: str, overrides: list[str]) -> Config:
    """Build a run's configuration from a preset and overrides, `section.field=value`.

    `objective=value` is one, too. Values are read as JSON where they parse as JSON, else as text.
    Raises UserError naming the preset, section, field or value that is wrong and what is allowed.
    """
    if preset not in PRESETS:
        known = sorted(PRESETS)
        raise UserError(
            f"unknown preset {preset!r}{nearest(preset, known)}; there are: {', '.join(known)}"
        )
    values: dict[str, Any] = {
        "preset": preset,
        **{name: deepcopy(value) for name, value in PRESETS[preset].items()},
    }
    sections = _sections(kind_of(values.get("model", {})))
    for override in overrides:
        if override.startswith(f"{OBJECTIVE}="):
            values[OBJECTIVE] = override.partition("=")[2]
            continue
        section, field, value = _parse_override(override, sections)
        values.setdefault(section, {})[field] = value
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(describe_errors(error)) from None


def _sections(model: str) -> dict[str, type[Section]]:
    """Each section by its name, with a model of that kind."""
    sections = {
        name: info.annotation
        for name, info in Config.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
    }
    return {"model": MODELS[model]} | sections


def _parse_override(override: str, sections: dict[str, type[Section]]) -> tuple[str, str, Any]:
    key, equals, text = override.partition("=")
    section, dot, field = key.partition(".")
    if not equals or not dot:
        raise UserError(
            f"{override!r} is not an override; expected section.field=value, "
            "for example optim.lr=1e-3"
        )
    if section not in sections:
        raise UserError(
            f"{override!r}: unknown section {section!r}{nearest(section, list(sections))}; "
            f"there are: {', '.join(sections)}"
        )
    fields = list(sections[section].model_fields)
    if field not in fields:
        raise UserError(
            f"{override!r}: section {section!r} has no field {field!r}{nearest(field, fields)}; "
            f"there are: {', '.join(fields)}"
        )
    if (section, field) in FOUND:
        source = FOUND[section, field]
        raise UserError(f"{override!r}: {section}.{field} comes from {source}; leave it out")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    return section, field, value
