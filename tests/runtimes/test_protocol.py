"""Frames: what was sent comes out, and half a frame is an end of file."""

import io

import numpy as np
import pytest

from edgedistill.runtimes.protocol import read_frame, write_frame


def frame(header, arrays=None) -> bytes:
    stream = io.BytesIO()
    write_frame(stream, header, arrays)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<i4", "<i8", ">i4"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 5), (), (2, 1, 3)])
def test_arrays_come_back(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    data = frame({"ok": True, "text": "a\nb é"}, {"first": array, "turned": array.T}) + frame({"next": 1})
    stream = io.BytesIO(data)
    header, arrays = read_frame(stream)
    assert header == {"ok": True, "text": "a\nb é"}
    np.testing.assert_array_equal(arrays["first"], array)
    np.testing.assert_array_equal(arrays["turned"], array.T)
    assert read_frame(stream) == ({"next": 1}, {})


def test_half_a_frame_is_an_end():
    data = frame({"ok": True}, {"a": np.ones(100, np.float32)})
    for end in (0, 5, len(data) - 300, len(data) - 1):
        with pytest.raises(EOFError, match="closed the pipe"):
            read_frame(io.BytesIO(data[:end]))


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="array 'a' is complex128; a frame carries <f4, <f2, <i4, <i8"):
        frame({}, {"a": np.ones(2, complex)})
    with pytest.raises(ValueError, match="a frame starts with a JSON object, got list"):
        read_frame(io.BytesIO(b"[1]\n"))
