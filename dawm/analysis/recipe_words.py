"""Recipes of synthetic transitions in words: the kind of model, and the settings that are not alike in all."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dawm.config import ExpansionSettings, GeneratorSettings, RequestSettings, ThresholdSettings
from dawm.config.recipes import unheeded_in_synthesis

PARTS = {
    "world_model": "",
    "inverse_dynamics": "inverse dynamics: ",
    "forward_dynamics": "forward model: ",
    "cloned_policy": "cloned policy: ",
    "synthesis": "",
}
"""What stands before the settings of each part of a recipe."""
PHRASES = (RequestSettings, ExpansionSettings, ThresholdSettings)
"""Sections that are said in one phrase."""
ALWAYS = {
    "world_model.window",
    *(f"synthesis.{name}" for name in ("horizon", "sampling_steps", "temperature", "request", "trajectories")),
}
"""Settings that are told of every recipe that has them."""
CHOICES = {
    "synthesis.correction.mode": {
        "none": "successor and reward as imagined",
        "correct": "successor and reward by the forward model",
        "filter": "filtered",
        "both": "filtered, then successor and reward by the forward model",
    },
    "synthesis.correction.terminals": {
        "learned": "terminals by the world model",
        "function": "terminals by the termination function",
        "both": "terminals by the world model or the termination function",
    },
    "synthesis.correction.oracle": {
        "none": "no simulator",
        "rows": "only rows that the simulator can replay",
        "replace": "successor, reward and terminal by the simulator, only rows that it can replay",
    },
}
KIND = {"world_model.actions", "world_model.conditional"}
"""What is told first of a model."""


def recipe_words(recipes: Mapping[str, GeneratorSettings]) -> dict[str, str]:
    """A line for each recipe: its kind and every setting that is not alike in all, or of a kind that was told before,
    in what it differs from the nearest of those."""
    told = {name: heeded(recipe) for name, recipe in recipes.items()}
    apart = ALWAYS | differing(told.values())
    lines: dict[str, str] = {}
    for name, recipe in recipes.items():
        own = {key: words for key, words in told[name].items() if key in apart}
        known = {other: told[other] for other in lines if kind(recipes[other]) == kind(recipe)}
        lines[name] = beside(own, known) if known else "; ".join([kind(recipe), *by_part(own)])
    return lines


def differing(told: Iterable[Mapping[str, str]]) -> set[str]:
    """Keys that are not told alike by all recipes that have them."""
    values: dict[str, set[str]] = {}
    for key, words in itertools.chain.from_iterable(own.items() for own in told):
        values.setdefault(key, set()).add(words)
    return {key for key, found in values.items() if len(found) > 1}


def beside(own: Mapping[str, str], known: Mapping[str, Mapping[str, str]]) -> str:
    """A recipe as the nearest of some known ones, and what is different."""
    changes = {
        name: {key: words for key, words in own.items() if told.get(key) != words} for name, told in known.items()
    }
    nearest = min(changes, key=lambda name: len(changes[name]))
    return ", but ".join([f"as {nearest}", *filter(None, ["; ".join(by_part(changes[nearest]))])])


def heeded(recipe: GeneratorSettings) -> dict[str, str]:
    """In words, by key, every setting that the recipe's kind does not tell and that makes a difference to it."""
    told = {key: item(key, value) for key, value in flattened(recipe)}
    return {key: words for key, words in told.items() if key not in unheeded(recipe)}


def flattened(settings: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value; what is said in one phrase is one value, and of no model there are none."""
    for name in (field.name for field in dataclasses.fields(settings)):
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, PHRASES):
            yield from flattened(value, f"{place}{name}.")
        elif place:
            yield f"{place}{name}", value


def unheeded(recipe: GeneratorSettings) -> set[str]:
    """Keys that the recipe's kind tells, or that it has no use for."""
    model, correction = recipe.world_model, recipe.synthesis.correction
    keys = {f"synthesis.{name}" for name in unheeded_in_synthesis(model)}
    if model is not None:
        keys |= KIND | {"synthesis.horizon", *(f"world_model.{name}" for name in model.unheeded)}
    if correction.oracle == "replace" and correction.mode == "correct":
        keys |= {"synthesis.correction.mode", "synthesis.correction.terminals"}
    return keys


def kind(recipe: GeneratorSettings) -> str:
    """Of the model that the transitions come from."""
    model = recipe.world_model
    if model is None:
        return "one-step model rolled out by a cloned policy"
    given = "conditional" if model.conditional else "unconditional"
    actions = "actions by inverse dynamics" if model.actions == "inferred" else "actions generated with the states"
    return f"{given} diffusion over windows, {actions}"


def by_part(told: Mapping[str, str]) -> Iterator[str]:
    """The settings of each part of a recipe, one after the other."""
    for part, label in PARTS.items():
        if own := [words for key, words in told.items() if key.partition(".")[0] == part]:
            yield label + ", ".join(own)


def item(key: str, value: Any) -> str:
    """A setting in words."""
    if key in CHOICES:
        return CHOICES[key][value]
    if isinstance(value, RequestSettings):
        return f"asked for {request_words(value)}"
    if key == "synthesis.expansion":
        return expansion_words(value)
    name = key.partition(".")[2].removeprefix("correction.").replace("_", " ")
    return f"{name} {value_words(value)}"


def request_words(request: RequestSettings) -> str:
    """The return that is asked for, by the rule of docs/method.md, section 2."""
    if request.kind == "factor":
        more = round(request.amount - 1, 9)
        change = f" and {value_words(abs(more))} |g| {'more' if more > 0 else 'less'}" if more else ""
        return f"a start's own return g{change}"
    amount = value_words(request.amount)
    if request.kind == "quantile":
        return f"the {amount} quantile of the data's returns"
    return f"{amount} of the return that is 1 to the model"


def expansion_words(expansion: ExpansionSettings | None) -> str:
    if expansion is None:
        return "every step a transition"
    rule = f"from real starts, γ = {value_words(expansion.discount)}"
    if expansion.weight is None:
        return f"{expansion.steps}-step transitions ({rule})"
    return f"λ-returns of up to {expansion.steps} steps ({rule}, λ = {value_words(expansion.weight)})"


def value_words(value: Any) -> str:
    if isinstance(value, ThresholdSettings):
        return f"quantile {value.quantile}" if value.value is None else value_words(value.value)
    if isinstance(value, int | float):
        return f"{value:,}".removesuffix(".0")
    if isinstance(value, Mapping):
        value = [f"{name} {value_words(amount)}" for name, amount in value.items()] or None
    if isinstance(value, list | tuple):
        return f"({', '.join(map(str, value))})"
    return "none" if value is None else str(value)
