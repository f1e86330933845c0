"""A graph under construction: its nodes and the tensors it stores."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

MS = "com.microsoft"

Store = Callable[[str, NDArray[np.generic]], TensorProto]


class Nodes:
    """Collects nodes and initializers. A node's result is called `NAME.out` unless it is named."""

    def __init__(self, store: Store) -> None:
        """`store` turns named values into an initializer, inside the model file or beside it."""
        self.store = store
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        domain: str = "",
        outputs: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """Append one node and return its first output."""
        names = list(outputs) or [f"{name}.out"]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0]

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Store values, once a name."""
        if name not in self.initializers:
            self.initializers[name] = self.store(name, values)
        return name

    def integers(self, name: str, *values: int) -> str:
        """Store a list of int64."""
        return self.constant(name, np.array(values, np.int64))

    def number(self, name: str, value: float) -> str:
        """Store one float32."""
        return self.constant(name, np.array([value], np.float32))
