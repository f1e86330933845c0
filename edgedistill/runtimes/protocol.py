"""Frames between a runtime's child process and its parent: one JSON line, then the raw bytes of the arrays that it
names.

    {"op": "logits", "args": {...}}\\n                                          parent -> child
    {"ok": true, "result": ..., "more": true, "arrays": [{"name": "logits", "dtype": "<f4", "shape": [256,
    49152]}]}\\n<bytes> {"ok": false, "error": "...", "kind": "input"}\\n                           child -> parent

A stream is answered by frames with `"more": true`, and a last one without. The child waits for "next" or "stop" before
it sends another frame: a parent that stops reading costs one frame's work, and a slow parent doesn't fill the memory.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

Arrays = dict[str, np.ndarray]

# What a frame may carry. A name from outside never reaches numpy's dtype parser.
DTYPES = {"<f4": np.float32, "<f2": np.float16, "<i4": np.int32, "<i8": np.int64}
MAX_LINE_BYTES = 1 << 28


@dataclass(frozen=True)
class Request:
    """What the parent sends: an operation with its arguments; within a stream "next" or "stop"."""

    op: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """What the child sends, beside arrays.

    Attributes:
        result: JSON types.
        more: whether another frame of a stream follows.
        error: why there is no result; None where there is one.
        kind: of an error: "input" where the request was wrong, "run" for the rest.
    """

    result: Any = None
    more: bool = False
    error: str | None = None
    kind: str = "run"


def write_request(stream: BinaryIO, request: Request) -> None:
    """Send a request."""
    write_frame(stream, {"op": request.op, "args": dict(request.args)})


def read_request(stream: BinaryIO) -> Request:
    """The next request. Raises as `read_frame`."""
    header, _ = read_frame(stream)
    return Request(header["op"], header["args"])


def write_response(stream: BinaryIO, response: Response, arrays: Arrays | None = None) -> None:
    """Send a response with its arrays."""
    if response.error is None:
        write_frame(stream, {"ok": True, "result": response.result, "more": response.more}, arrays)
    else:
        write_frame(stream, {"ok": False, "kind": response.kind, "error": response.error})


def read_response(stream: BinaryIO) -> tuple[Response, Arrays]:
    """The next response and its arrays. Raises as `read_frame`."""
    header, arrays = read_frame(stream)
    if header["ok"]:
        return Response(header["result"], header["more"]), arrays
    return Response(error=header["error"], kind=header["kind"]), arrays


def write_frame(stream: BinaryIO, header: dict[str, Any], arrays: Arrays | None = None) -> None:
    """Send one frame and flush it. Arrays go out C-contiguous and little-endian.

    Raises:
        TypeError: an array has a type that frames don't carry.
    """
    body = []
    if arrays:
        described = []
        for name, array in arrays.items():
            code = array.dtype.newbyteorder("<").str
            if code not in DTYPES:
                raise TypeError(f"array '{name}' is {array.dtype}; a frame carries {', '.join(DTYPES)}")
            described.append({"name": name, "dtype": code, "shape": list(array.shape)})
            body.append(np.ascontiguousarray(array, dtype=code))
        header = header | {"arrays": described}
    stream.write(json.dumps(header).encode() + b"\n")
    for array in body:
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], Arrays]:
    """The next frame's header and arrays.

    Raises:
        EOFError: the other side closed its end, in the middle of a frame or between two.
        ValueError: the line isn't a frame's.
    """
    line = stream.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError("the other side closed the pipe")
    header = json.loads(line)
    if not isinstance(header, dict):
        raise ValueError(f"a frame starts with a JSON object, got {type(header).__name__}")
    arrays = {}
    for entry in header.pop("arrays", []):
        array = np.empty(entry["shape"], DTYPES[entry["dtype"]])
        if array.size:
            _read_into(stream, array.reshape(-1).view(np.uint8).data)
        arrays[entry["name"]] = array
    return header, arrays


def _read_into(stream: BinaryIO, view: memoryview) -> None:
    while len(view):
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other side closed the pipe within an array")
        view = view[count:]
