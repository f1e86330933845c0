"""The GGUF header reader against gguf's own, and against files that lie."""

import random
import struct

import gguf
import pytest

from edgedistill.errors import InputError
from edgedistill.models.gguf_file import check_header, read_header
from edgedistill.models.gguf_header import TENSOR_TYPES, shortest_float


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A small file with every kind of metadata and three tensors, written by gguf."""
    import numpy as np

    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -3)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_int32("a.i32", -7)
    writer.add_uint64("a.u64", 1 << 40)
    writer.add_int64("a.i64", -(1 << 40))
    writer.add_float32("a.f32", 1e-5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "naïve 🚀")
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "é", ""])
    writer.add_array("tokenizer.ggml.token_type", [3, 1, 1, 1])
    writer.add_array("a.floats", [0.5, -1.0])
    writer.add_tensor("plain", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("norm", np.ones(5, dtype=np.float16))
    weight = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 64)
    writer.add_tensor(
        "quantized",
        gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_0),
        raw_dtype=gguf.GGMLQuantizationType.Q4_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_reads_what_ggufs_own_reader_reads(path):
    header = read_header(path)
    reader = gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        expected = field.contents()
        if isinstance(expected, list):
            assert header.array(key, type(expected[0])) == expected
            assert header.count(key) == len(expected)
        else:
            assert header.scalars[key] == expected
            assert header.get(key, type(expected)) == expected
    assert header.scalars.keys() | header.arrays.keys() == {key for key in reader.fields if not key.startswith("GGUF.")}
    for tensor in reader.tensors:
        found = header.tensors[tensor.name]
        assert (list(found.shape), found.type_id, found.size) == (
            tensor.shape.tolist()[::-1],
            tensor.tensor_type,
            tensor.n_bytes,
        )
        assert found.offset == tensor.data_offset


def test_types_are_ggufs():
    for type_id, (name, block, block_bytes) in TENSOR_TYPES.items():
        kind = gguf.GGMLQuantizationType(type_id)
        assert (kind.name.lower(), gguf.GGML_QUANT_SIZES[kind]) == (name, (block, block_bytes))


def test_a_value_of_another_type_is_named(path):
    header = read_header(path)
    with pytest.raises(InputError, match="a.text is 'naïve 🚀'; it must be of type int"):
        header.get("a.text", int)
    with pytest.raises(InputError, match="a.bool is True; it must be of type int"):
        header.get("a.bool", int)
    with pytest.raises(InputError, match="a.floats is an array; it must be of type float"):
        header.get("a.floats", float)
    with pytest.raises(InputError, match="a.floats holds elements of type 6; it must be an array of str"):
        header.array("a.floats", str)
    with pytest.raises(InputError, match="a.i8 is -3; it must be an array of int"):
        header.array("a.i8", int)
    assert header.get("absent", int, 7) == 7
    assert header.array("absent", str) == []


def test_every_truncation_is_one_sentence(path, tmp_path):
    data = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(len(data) - 32):  # the file ends in at most 31 bytes of padding
        cut.write_bytes(data[:length])
        with pytest.raises(InputError) as caught:
            read_header(cut)
        assert str(caught.value).startswith(str(cut))


def test_damaged_bytes_never_crash(path, tmp_path):
    data, chance, damaged = path.read_bytes(), random.Random(0), tmp_path / "damaged.gguf"
    refused = 0
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(4, len(changed))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        damaged.write_bytes(changed)
        try:
            header = read_header(damaged)
            for key in header.arrays:
                header.array(
                    key, str if header.arrays[key].element == 8 else float if header.arrays[key].element == 6 else int
                )
        except InputError:
            refused += 1
    assert refused > 100


def header_bytes(*parts: bytes, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts) + b"\0" * 64


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


HUGE = (1 << 64) - 1
TENSOR = text(b"t") + struct.pack("<I", 1) + struct.pack("<Q", 8)
LIES = [
    (b"PK\x03\x04" + b"\0" * 60, "not a GGUF file: its first four bytes must be 'GGUF'"),
    (b"GGUF\x03\0\0\0", "ends after 8 bytes, inside its header"),
    (header_bytes(version=1), "GGUF version 1 isn't supported"),
    (header_bytes(version=0x03000000), "it must be little-endian"),
    (header_bytes(keys=HUGE), "the metadata at byte 24 needs"),
    (header_bytes(tensors=HUGE), "the table of tensors at byte 24 needs"),
    (header_bytes(struct.pack("<Q", HUGE), keys=1), "a metadata key at byte 32 is 18446744073709551615 bytes long"),
    (header_bytes(text(b"\xff\xfe"), keys=1), "a metadata key at byte 32 isn't UTF-8"),
    (header_bytes(text(b"k") + struct.pack("<I", 99), keys=1), "metadata key 'k' has type 99"),
    (header_bytes(text(b"k") + struct.pack("<IIQ", 9, 8, HUGE // 16), keys=1), "k at byte 49 needs"),
    (header_bytes(text(b"k") + struct.pack("<IIQ", 9, 10, HUGE), keys=1), "k at byte 49 needs"),
    (header_bytes(text(b"k") + struct.pack("<IIQ", 9, 9, 1), keys=1), "k is an array of type 9"),
    (header_bytes(text(b"k") + struct.pack("<IIQQ", 9, 8, 1, HUGE), keys=1), "has strings past the end of the file"),
    (header_bytes(*[text(b"k") + struct.pack("<IB", 0, 1)] * 2, keys=2), "metadata key 'k' comes twice"),
    (header_bytes(text(b"split.count") + struct.pack("<IH", 2, 3), keys=1), "one of 3 parts of a split GGUF"),
    (
        header_bytes(text(b"general.alignment") + struct.pack("<II", 4, 33), keys=1),
        "general.alignment is 33, which isn't a power of two",
    ),
    (
        header_bytes(TENSOR + struct.pack("<IQ", 77, 0), tensors=1),
        "tensor 't' has ggml type 77, which we can't dequantize; it must be one",
    ),
    (
        header_bytes(TENSOR + struct.pack("<IQ", 8, 0), tensors=1),
        r"has shape \[8\], whose rows don't divide into q8_0's blocks of 32",
    ),
    (
        header_bytes(TENSOR + struct.pack("<IQ", 0, 8), tensors=1),
        "starts at byte 8 of the data, which isn't a multiple of 32",
    ),
    (
        header_bytes(TENSOR + struct.pack("<IQ", 0, 1 << 60), tensors=1),
        "tensor 't' ends at byte 1152921504606847072, the file at byte 121",
    ),
    (
        header_bytes(text(b"t") + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0), tensors=1),
        "tensor 't' ends at byte 34028236692093846",
    ),
    (header_bytes(text(b"t") + struct.pack("<I", 1 << 30), tensors=1), "tensor 't' has 1073741824 dimensions"),
    (header_bytes(text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0), tensors=1), r"tensor 't' has shape \[0\]"),
]


@pytest.mark.parametrize(("data", "said"), LIES, ids=[said[:40] for _, said in LIES])
def test_a_lie_is_named(data, said, tmp_path):
    path = tmp_path / "lie.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_header(path)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="none.gguf: can't be read: No such file"):
        read_header(tmp_path / "none.gguf")


def test_float32_values_get_their_short_form():
    for short in (1e-5, 1e-6, 10000.0, 500000.0, 0.1, 123456.7):
        (stored,) = struct.unpack("<f", struct.pack("<f", short))
        assert shortest_float(stored) == short


def test_tensors_over_each_other_are_refused(path, tmp_path):
    header = read_header(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"quantized") + len("quantized") + 4 + 2 * 8 + 4  # behind dimensions, sizes and type: the offset
    raw[at : at + 8] = struct.pack("<Q", 0)
    (tmp_path / "over.gguf").write_bytes(raw)
    assert header.tensors["plain"].offset < header.tensors["quantized"].offset
    with pytest.raises(InputError, match="tensors '.*' and '.*' lie over each other"):
        read_header(tmp_path / "over.gguf")


def test_what_llama_cpp_alone_is_to_read_is_checked_likewise(path, tmp_path):
    check_header(path)
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="the file is damaged or cut off"):
        check_header(tmp_path / "cut.gguf")
