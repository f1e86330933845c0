"""Read a YAML file into a pydantic model, or raise one sentence that says where it is wrong.

Stricter than `yaml.safe_load`: errors are a key given twice (YAML would take the last one), an alias (a few lines of
them unfold into gigabytes) and a file over 1 MiB.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

from edgedistill.errors import InputError, did_you_mean
from edgedistill.reading import ENCODING, require_regular

MAX_BYTES = 2**20
LARGEST_INT = 2**63  # no figure of a recipe or a target comes near; YAML allows any number of digits
SHOWN = 60  # characters of a wrong value that a message repeats
# pydantic's kinds of errors in our words.
BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
PLAIN = {
    "string_type": "{value}; it must be a text.",
    "tuple_type": "{value}; it must be a list, [a, b].",
    "list_type": "{value}; it must be a list, [a, b].",
    "string_too_short": "empty; it must be a text.",
    "too_short": "empty; it must have at least one entry.",
}


_TAG = re.compile(r"\[[\w+]+\]")  # of a union's kind, as it stands in the place of an error


class Model(BaseModel):
    """What all parts of a recipe and a target share: unknown keys are errors, nothing is converted, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False)
    # Keys at the top of the file that stand for another place in the model, such as distill for the first of phases.
    shorthands: ClassVar[dict[str, tuple[str, ...]]] = {}


ModelT = TypeVar("ModelT", bound=Model)


class _RefusedError(yaml.MarkedYAMLError):
    """Valid YAML that isn't allowed here; its text says what to do."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """safe_load that refuses duplicate keys, keys that aren't text, and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _RefusedError("aliases (*name) are not allowed; write the value out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _RefusedError(
                    f"the key '{_cut(str(key.value))}' is not a text; put it in quotes, or take another key",
                    key.start_mark,
                )
            if key.value in seen:
                raise _RefusedError(f"the key '{_cut(key.value)}' is given twice; leave one out", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) >= LARGEST_INT:
            raise _RefusedError("a number has too many digits; write one below 2^63", node.start_mark)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def as_tuple(value: Any) -> Any:
    """A YAML list as the tuple that a frozen model holds; anything else is left for the checks that follow."""
    return tuple(value) if isinstance(value, list) else value


def beside_the_file(path: str, info: ValidationInfo) -> str:
    """A path in a file as an absolute one: it counts from the file's folder. Without a file, as it is."""
    if not path or not info.context:
        return path
    return str((Path(info.context["folder"]) / Path(path).expanduser()).resolve())


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        InputError: the file is missing, unreadable, too big, not YAML, or not a mapping.
    """
    try:
        size = require_regular(path)
        if size > MAX_BYTES:
            raise InputError(
                f"{path}: the file has {size} bytes; a recipe or target has at most {MAX_BYTES}. Is it another file?"
            )
        content = yaml.load(path.read_text(encoding=ENCODING), Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except FileNotFoundError:
        raise InputError(
            f"{path}: there is no such file. `edgedistill recipes list` and `targets list` name those known."
        ) from None
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}). Give a YAML file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: it is not a text file in UTF-8. Give a YAML file.") from None
    except yaml.MarkedYAMLError as error:
        where = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "" if isinstance(error, _RefusedError) else " Write it as YAML, `key: value`."
        raise InputError(f"{path}{where}: {error.problem or error.context}.{hint}") from None
    except InputError:
        raise
    except Exception as error:  # PyYAML fails in many ways on tags with values that aren't of their kind
        said = _cut(str(error).partition("\n")[0])
        what = (
            said
            if isinstance(error, yaml.YAMLError | ValueError | RecursionError)
            else "a value isn't what its tag says"
        )
        raise InputError(f"{path}: it cannot be read as YAML ({what}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: it holds {_kind(content)}; it must be keys with values, `key: value`.")
    return content


def load(path: Path, model: type[ModelT]) -> ModelT:
    """A file as a checked model; relative paths in it count from its folder.

    Raises:
        InputError: as `read_yaml`, and when a key or value is wrong.
    """
    content = read_yaml(path)
    try:
        return model.model_validate(content, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise InputError(f"{path.name}: {explain(error, model, content)}") from None


def explain(error: ValidationError, model: type[Model], content: Mapping[str, Any] | None = None) -> str:
    """One of a model's errors as a sentence: the key, its value, what is allowed.

    `content` is what was validated: a key that it has in the short form is called by that.
    """
    # An unknown key first: a misspelt one is missing too, and only this says how it is spelt.
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    kind, given, context = first["type"], first["input"], first.get("ctx", {})
    # pydantic puts the tag of a union and the text "[key]" into the location; neither is in the file. Our tags have
    # brackets too.
    tagged = [str(part) for part in first["loc"]]
    path = [part for part in tagged if not _TAG.fullmatch(part)]
    key = ".".join(_shown(path, model, content or {}))
    value = _value(given)
    if kind == "extra_forbidden":
        allowed = _keys(model, tagged[:-1])
        return f"{key} is not a key; allowed are {', '.join(allowed)}.{did_you_mean(path[-1], allowed)}"
    if kind == "missing":
        keys = _keys(model, tagged)
        with_keys = f" with the keys {', '.join(keys)}" if keys else ""
        return f"{key} is missing; it must be given{with_keys}."
    if kind == "literal_error":
        allowed = [_unquote(word) for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        if len(allowed) == 1:
            return f"{key} is {value}; it must be {allowed[0]}."
        near = did_you_mean(given, allowed) if isinstance(given, str) else ""
        return f"{key} is {value}; it must be one of {', '.join(allowed)}.{near}"
    if kind in ("float_type", "int_type", "int_from_float"):
        return f"{key} is {_number_trouble(given, whole=kind != 'float_type')}"
    if kind in BOUNDS:
        ((_, bound),) = context.items()
        return f"{key} is {value}; it must be {BOUNDS[kind]} {bound:g}."
    if kind == "multiple_of":
        return f"{key} is {value}; it must be a multiple of {context['multiple_of']:g}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        keys = _keys(model, path)
        listed = f": {', '.join(keys)}" if keys else ""
        return f"{key} is {value}; it must be a group of keys{listed}."
    if kind == "string_pattern_mismatch":
        return f"{key} is {value}; it must match {context['pattern']}."
    if kind in PLAIN:
        return f"{key} is {PLAIN[kind].format(value=value)}"
    if kind == "value_error":
        text = str(context["error"])
        end = "" if text.endswith((".", "?")) else "."
        if not key:
            return f"{text}{end}"
        # Of a part with several keys, which one is wrong is in the text.
        return f"{key}: {text}{end}" if isinstance(given, dict) else f"{key} is {value}; {text}{end}"
    return f"{key} is {value}; {first['msg'][:1].lower()}{first['msg'][1:]}."


def _shown(path: list[str], model: type[Model], content: Mapping[str, Any]) -> list[str]:
    """A place in the model as the file has it."""
    for short, whole in model.shorthands.items():
        if short in content and tuple(path[: len(whole)]) == whole:
            return [short, *path[len(whole) :]]
    return path


def _number_trouble(given: object, whole: bool) -> str:
    """What is wrong with something that should be a number, and how to write it."""
    wrong = f"{_value(given)}; it must be a {'whole number' if whole else 'number'}."
    if isinstance(given, str):
        try:
            number = float(given)
        except ValueError:
            return wrong
        if given.strip().lower().lstrip("+-").startswith(("nan", "inf")):
            return f"{_value(given)}; it must be a number."
        if whole and number.is_integer():
            return f"the text '{_cut(given)}'; a whole number is written with digits and without quotes: {int(number)}."
        if whole:
            return wrong
        if "e" in given.lower():
            point = "" if "." in given else "with a point"
            sign = "" if "e-" in given.lower() or "e+" in given.lower() else "with a sign after the e"
            how = " and ".join(word for word in (point, sign) if word) or "without quotes"
            return f"the text '{_cut(given)}'; YAML reads a number only {how}: {_yaml_number(number)}."
        return f"the text '{_cut(given)}'; a number is written without quotes: {number:g}."
    return wrong


def _yaml_number(number: float) -> str:
    """A float as YAML 1.1 needs it: with a point, and with a sign in the exponent: 2.0e-5."""
    mantissa, exponent = f"{number:e}".split("e")
    mantissa = mantissa.rstrip("0")
    return f"{mantissa}{'0' if mantissa.endswith('.') else ''}e{exponent[0]}{int(exponent[1:])}"


def _keys(model: type[Model], path: list[str]) -> list[str]:
    """The keys allowed at a place in a model, or none where there are no fixed keys."""
    if not path:
        return [*_names([model]), *model.shorthands]
    models: list[type[BaseModel]] = [model]
    parts = iter(path)
    for part in parts:
        if _TAG.fullmatch(part):
            models = [each for each in models if _kind_of(each) == part[1:-1]] or models
            continue
        fields = [each.model_fields[name] for each in models for name in each.model_fields if part == _name(each, name)]
        if not fields:
            return []
        annotation = fields[0].annotation
        # A dict's key or a list's index names one of many alike; the dict or list itself has no fixed keys.
        if get_origin(annotation) in (dict, tuple) and next(parts, None) is None:
            return []
        models = _models_in(annotation)
    return _names(models)


def _kind_of(model: type[BaseModel]) -> Any:
    """What sets a group apart from others that stand in its place, where it has such a key."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _name(model: type[BaseModel], field: str) -> str:
    return model.model_fields[field].alias or field


def _names(models: list[type[BaseModel]]) -> list[str]:
    """The keys of a group that may be of one of several kinds."""
    return list(dict.fromkeys(_name(model, field) for model in models for field in model.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation holds: of a union all, of a list or mapping those of its entries."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _value(given: object) -> str:
    """A wrong value as it can stand in a sentence."""
    if given is None:
        return "null"
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, (dict, list, tuple)):
        return _kind(given)
    return f"'{_cut(given)}'" if isinstance(given, str) else _cut(str(given))


def _kind(given: object) -> str:
    if isinstance(given, dict):
        return "a group of keys"
    if isinstance(given, (list, tuple)):
        return "a list"
    return "nothing" if given is None else f"only {_value(given)}"


def _cut(text: str) -> str:
    """At most SHOWN printable characters: a file may hold anything, a terminal obeys control characters."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: SHOWN + 1])
    return clean if len(clean) <= SHOWN else clean[: SHOWN - 1] + "…"


def _unquote(word: str) -> str:
    """An allowed value as YAML has it."""
    if word in ("True", "False"):
        return word.lower()
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == "'" else word
