"""Frozen dataclasses to and from JSON, by the types of their fields.

A field's name is its key. An int counts as a float. A number that isn't finite becomes None where None is allowed. Null
stands for a field's default. A field made with `absent()` is left out of the JSON while it is empty. Other keys are an
error, unless the class has a field `more`, which keeps them as they are.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edgedistill.errors import RunError

MORE = "more"

T = TypeVar("T", bound="JsonData")
_HINTS: dict[Any, dict[str, Any]] = {}


def absent(default: Any = None) -> Any:
    """A field that has no key in the JSON while it is `default`."""
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"absent": True})
    return field(default=default, metadata={"absent": True})


class JsonData:
    """What a dataclass needs to become JSON and back."""

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON types."""
        out: dict[str, Any] = {}
        for each in _fields_of(type(self)):
            value = getattr(self, each.name)
            empty = value is None or (isinstance(value, (tuple, dict)) and not value)
            if each.name == MORE:
                continue
            if not (each.metadata.get("absent") and empty):
                out[each.name] = to_plain(value)
        out.update(to_plain(getattr(self, MORE, {})))
        return out

    @classmethod
    def from_json(cls: type[T], data: Any, where: str = "") -> T:
        """What `to_json` gave.

        Args:
            data: JSON types.
            where: what the data are, for error messages.
        Raises:
            RunError: a key is missing or unknown, or a value is of another type.
        """
        where = where or cls.__name__.lower()
        if not isinstance(data, Mapping):
            raise RunError(f"{where} is {type(data).__name__}; it must be an object.")
        by_name = {each.name: each for each in _fields_of(cls) if each.name != MORE}
        others = {str(key): from_plain(value) for key, value in data.items() if key not in by_name}
        if others and MORE not in _hints_of(cls):
            raise RunError(f"{where} holds '{next(iter(others))}'; its keys are {', '.join(by_name)}.")
        values: dict[str, Any] = {MORE: others} if others else {}
        for name, each in by_name.items():
            given = data.get(name)
            optional = each.default is not MISSING or each.default_factory is not MISSING
            if given is None and optional:
                continue
            if name not in data:
                raise RunError(f"{where} lacks '{name}'.")
            values[name] = _value(_hints_of(cls)[name], given, f"{where}: {name}")
        return cls(**values)


def to_plain(value: Any) -> Any:
    """A value as JSON types."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    return value


def from_plain(value: Any) -> Any:
    """The same with JSON types only: tuples become lists, NaN and infinity None, keys text, all else text."""
    if isinstance(value, Mapping):
        return {str(key): from_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [from_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _fields_of(cls: Any) -> tuple[Field[Any], ...]:
    return fields(cls)


def _hints_of(cls: Any) -> dict[str, Any]:
    """A class' types by field; worked out once, since a report has hundreds of small objects."""
    if cls not in _HINTS:
        _HINTS[cls] = get_type_hints(cls)
    return _HINTS[cls]


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as its type says.

    Raises:
        RunError: it is of another type.
    """
    if hint is Any:
        return from_plain(value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _optional(hint, arguments, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, "a list", where)
        return tuple(_value(arguments[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(value, "an object", where)
        return {str(key): _value(arguments[1], each, f"{where}.{key}") for key, each in value.items()}
    if is_dataclass(hint):
        return hint.from_json(value, where)  # type: ignore[union-attr]
    return _scalar(hint, value, where)


def _optional(hint: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """A value of `X | None`."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    kinds = [each for each in arguments if each is not type(None)]
    if len(kinds) != 1:
        raise TypeError(f"{where}: {hint} has more than one kind beside None")
    return _value(kinds[0], value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    kinds = {float: "a finite number", int: "a whole number", str: "a text", bool: "true or false"}
    raise _wrong(value, kinds[hint], where)


def _wrong(value: Any, kind: str, where: str) -> RunError:
    return RunError(f"{where} is {str(value)[:60]!r}; it must be {kind}.")
