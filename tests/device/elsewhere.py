"""A device that any machine has: its tensors lie in the processor's memory, and mixing them with the processor's own
raises, as CUDA does.

torch's FakeTensorMode does the same without values. Here values are there, so whole stages run from their files to
their files, control flow that depends on data too, and what they write can be compared with what the processor writes.
Each operation is counted, and each wait for the device: whatever hands a value to Python or sizes a result by it.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
aten = torch.ops.aten
# What must wait for the device.
WAITS = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.item.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
}
# What only looks at a tensor in another way, and launches nothing.
VIEWS = {
    *("view", "_unsafe_view", "expand", "slice", "select", "t", "transpose", "permute", "unsqueeze", "squeeze"),
    "detach",
    *("alias", "split", "split_with_sizes", "unbind", "as_strided", "empty", "empty_like", "empty_strided", "diagonal"),
    *("new_empty", "new_empty_strided", "_reshape_alias", "unfold", "lift_fresh", "set_data"),
}


class MixedDevicesError(RuntimeError):
    """An operation got tensors of two devices."""


class _Backend:
    """What torch asks of a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """There is no generator of its own."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())


class Elsewhere(torch.Tensor):
    """A tensor of the device; `held` are its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        wrapper.held = held
        return wrapper

    @property
    def data(self) -> "Elsewhere":
        return self.detach()

    @data.setter
    def data(self, values: "Elsewhere") -> None:
        self.held = values.held

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> list[Any]:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class World(TorchDispatchMode):
    """Within it the device is there. `launches` counts operations by name, `waits` those that stop for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_here(tree_flatten((args, kwargs))[0]):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        leaves = func is aten._to_copy.default and kwargs.get("device", torch.device(NAME)).type != NAME
        if func in WAITS or leaves:
            self.waits[name] += 1
        if name not in VIEWS:
            self.launches[name] += 1
        return _run(func, args, kwargs)


def _is_here(values: list[Any]) -> bool:
    """Whether an operation has nothing to do with the device."""
    return not any(isinstance(v, Elsewhere) or (isinstance(v, torch.device) and v.type == NAME) for v in values)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    values, shape = tree_flatten((args, kwargs))
    device = kwargs.get("device")
    if func in (aten._to_copy.default, aten.copy_.default):
        return _copy(func, args, kwargs)
    tensors = [value for value in values if isinstance(value, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    strays = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.dim() > 0]
    if there and strays:
        sizes = ", ".join(str(tuple(tensor.shape)) for tensor in strays)
        raise MixedDevicesError(f"{func} got tensors of {NAME} and of the processor: {sizes}")
    owners = {id(tensor.held): tensor for tensor in there}
    plain = [value.held if isinstance(value, Elsewhere) else value for value in values]
    plain = [torch.device("cpu") if isinstance(v, torch.device) and v.type == NAME else v for v in plain]
    plain_args, plain_kwargs = tree_unflatten(plain, shape)
    result = func(*plain_args, **plain_kwargs)
    if func in WAITS and func not in (aten.nonzero.default, aten.masked_select.default, aten._unique2.default):
        return result
    if device is not None and torch.device(device).type != NAME:
        return result
    return tree_map(lambda value: _wrapped(value, owners), result)


def _wrapped(value: Any, owners: dict[int, "Elsewhere"]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
        return value
    return owners.get(id(value)) if id(value) in owners else Elsewhere(value)


def _copy(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Copies go from device to device."""
    if func is aten.copy_.default:
        target, source = args[0], args[1]
        held = [each.held if isinstance(each, Elsewhere) else each for each in (target, source)]
        held[0].copy_(held[1])
        return target
    (source,) = args
    device = kwargs.get("device")
    to = source.device if device is None else torch.device(device)
    more = {key: value for key, value in kwargs.items() if key != "device"}
    held = source.held if isinstance(source, Elsewhere) else source
    copied = func(held, **more)
    return Elsewhere(copied) if to.type == NAME else copied


# Under autocast, torch's CUDA list casts these to the lower type.
_library = torch.library.Library("aten", "IMPL")
_others = torch.library.Library("_", "IMPL")
_others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _cast(value: Any) -> Any:
    dtype = torch.get_autocast_dtype(NAME)
    if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16):
        return value.to(dtype)
    return value


def _lower(operation: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(_cast, (args, kwargs))
        with torch.autocast(NAME, enabled=False):
            return operation(*args, **kwargs)

    return call


for _name in ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention"):
    _library.impl(_name, _lower(getattr(aten, _name)), "AutocastPrivateUse1")


@contextlib.contextmanager
def world() -> Iterator[World]:
    """The device, within."""
    with World() as mode:
        yield mode
