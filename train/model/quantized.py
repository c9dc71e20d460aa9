"""Weights of eight or four bits: how values become codes and back, and layers that multiply by them.

A row of a matrix is cut into groups. Of eight bits a code is -127 … 127 and a group has a float32 scale; of four bits a
code is 0 … 15 and a group has a scale and a smallest value, both float16. The layers restore a block of rows at a time,
so that the whole matrix never lies in memory; one token's product by four-bit weights is made by PyTorch's own kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from train.model.cross_entropy import linear_cross_entropy
from train.model.transformer import Output, Transformer, TransformerConfig

BITS = (8, 4)
BLOCK = 1 << 19
"""Values restored at once on a CPU: 2 MiB of float32, which stay in its cache."""
FEW = 8
"""Rows up to which PyTorch's kernels are faster on a CPU than restoring the weights; they round to bfloat16."""
KERNEL_GROUPS = (32, 64, 128, 256)
KERNEL_ROWS = 16
"""What the number of a matrix's rows must be a multiple of for the kernel of four bits, and its groups one of."""


@dataclass(frozen=True)
class Scheme:
    """How a matrix is quantized.

    Args:
        bits: of `BITS`.
        group: neighbouring values of a row that share a scale; 0 is the whole row.
    """

    bits: int
    group: int

    def groups(self, columns: int) -> int:
        """Return how many groups a row has. Raises ValueError: they don't divide it."""
        if self.group and columns % self.group:
            raise ValueError(f"groups of {self.group} don't divide rows of {columns}")
        return columns // self.group if self.group else 1


@dataclass(frozen=True)
class Grid:
    """The values that a matrix's elements may have: scale (N, groups), and of four bits the smallest, (N, groups)."""

    scheme: Scheme
    scale: Tensor
    minimum: Tensor | None

    def encode(self, weight_NK: Tensor) -> Tensor:
        """Return the code of the nearest value for each element, int8 (N, K)."""
        rows, columns = weight_NK.shape
        grouped = weight_NK.view(rows, self.scale.shape[1], -1)
        return nearest(self.scheme.bits, grouped, *self._broadcast()).to(torch.int8).view(rows, columns)

    def decode(self, codes_NK: Tensor) -> Tensor:
        """Return the values of codes, float32 (N, K)."""
        rows, columns = codes_NK.shape
        scale, minimum = self._broadcast()
        values = codes_NK.float().view(rows, self.scale.shape[1], -1).mul_(scale)
        return (values if minimum is None else values.add_(minimum)).view(rows, columns)

    def _broadcast(self) -> tuple[Tensor, Tensor | None]:
        return self.scale.float().unsqueeze(2), None if self.minimum is None else self.minimum.float().unsqueeze(2)


def nearest(bits: int, values: Tensor, scale: Tensor, minimum: Tensor | None) -> Tensor:
    """Return the codes of the nearest values, as floats; a group whose scale is 0 has code 0."""
    shifted = values if minimum is None else values - minimum
    codes = (shifted / torch.where(scale == 0, torch.ones_like(scale), scale)).round_()
    return codes.clamp_(-127, 127) if bits == 8 else codes.clamp_(0, 15)


def grid_between(scheme: Scheme, low: Tensor, high: Tensor) -> Grid:
    """Return the grid whose ends are the given ones, (N, groups), as exactly as it is stored."""
    if scheme.bits == 8:
        return Grid(scheme, torch.maximum(low.abs(), high.abs()) / 127, None)
    # What lies within the grid may include 0, which pruned weights are; and a scale must not vanish in float16.
    return Grid(scheme, ((high - low) / 15).half(), low.half())


def full_grid(weight_NK: Tensor, scheme: Scheme) -> Grid:
    """Return the grid that reaches from each group's smallest to its largest value."""
    grouped = weight_NK.view(weight_NK.shape[0], scheme.groups(weight_NK.shape[1]), -1)
    return grid_between(scheme, *torch.aminmax(grouped, dim=2))


@dataclass(frozen=True)
class Packed:
    """A quantized matrix as it is stored: of four bits a byte holds a code of a row's first half and one of its second.

    Args:
        codes: int8 (N, K), or uint8 (N, K / 2).
    """

    grid: Grid
    codes: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.codes.shape
        return rows, columns * (8 // self.grid.scheme.bits)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the values of some rows, float32."""
        return self._decoded(slice(start, stop))

    def chosen(self, rows: Tensor) -> Tensor:
        """Return the values of rows by their numbers, of any shape, float32 (…, K)."""
        values = self._decoded(rows.flatten())
        return values.view(*rows.shape, self.shape[1])

    def values(self) -> Tensor:
        """Return the whole matrix, float32."""
        return self.rows(0, self.shape[0])

    def _decoded(self, which: slice | Tensor) -> Tensor:
        grid = self.grid
        minimum = None if grid.minimum is None else grid.minimum[which]
        return Grid(grid.scheme, grid.scale[which], minimum).decode(unpack(self.codes[which], grid.scheme.bits))


def pack(grid: Grid, codes_NK: Tensor) -> Packed:
    """Return codes as they are stored."""
    if grid.scheme.bits == 8:
        return Packed(grid, codes_NK)
    first, second = codes_NK.to(torch.uint8).chunk(2, dim=1)
    return Packed(grid, first | (second << 4))


def unpack(codes: Tensor, bits: int) -> Tensor:
    """Return the codes (N, K) of stored ones."""
    return codes if bits == 8 else torch.cat((codes & 15, codes >> 4), dim=1)


class PackedWeight(nn.Module):
    """A quantized matrix that is multiplied by, without gradients."""

    def __init__(self, packed: Packed):
        super().__init__()
        self.scheme, (self.outputs, self.inputs) = packed.grid.scheme, packed.shape
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scale", packed.grid.scale)
        self.register_buffer("minimum", packed.grid.minimum)
        self._kernel = self._find_kernel() if packed.codes.device.type == "cpu" else None

    @property
    def packed(self) -> Packed:
        minimum = cast("Tensor | None", self.minimum)
        return Packed(Grid(self.scheme, cast(Tensor, self.scale), minimum), cast(Tensor, self.codes))

    def forward(self, x: Tensor) -> Tensor:
        """Return x · weightᵀ, (…, N)."""
        flat = x.reshape(-1, self.inputs)
        if self._kernel is not None and len(flat) <= FEW:
            product = self._kernel(flat.bfloat16()).to(x.dtype)
        else:
            product = torch.empty(len(flat), self.outputs, dtype=x.dtype, device=x.device)
            for rows, values in self._blocks():
                product[:, rows] = flat @ values.to(x.dtype).t()
        return product.view(*x.shape[:-1], self.outputs)

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        on_cpu = cast(Tensor, self.codes).device.type == "cpu"
        height = max(1, (BLOCK if on_cpu else 1 << 26) // self.inputs)
        packed = self.packed
        for start in range(0, self.outputs, height):
            rows = slice(start, min(start + height, self.outputs))
            yield rows, packed.rows(rows.start, rows.stop)

    def _find_kernel(self) -> Callable[[Tensor], Tensor] | None:
        """Return what multiplies a few rows in bfloat16 by a kernel of PyTorch's, where one takes this matrix."""
        packed, groups = self.packed, self.scheme.groups(self.inputs)
        if self.scheme.bits == 8:
            if groups > 1:
                return None
            ones, scale = torch.ones(self.outputs, dtype=torch.bfloat16), packed.grid.scale.t()
            return lambda x: torch._weight_int8pack_mm(x, packed.codes, ones) * scale
        if self.inputs // groups not in KERNEL_GROUPS or self.outputs % KERNEL_ROWS:
            return None
        # The kernel wants codes in an order of its own, and values as (code - 8) · scale + middle.
        codes = torch._convert_weight_to_int4pack_for_cpu(unpack(packed.codes, 4).int(), 1)
        assert packed.grid.minimum is not None
        scale = packed.grid.scale.float()
        middle = packed.grid.minimum.float() + 8 * scale
        grid = torch.stack((scale.t(), middle.t()), dim=2).bfloat16().contiguous()
        return lambda x: torch._weight_int4pack_mm_for_cpu(x, codes, self.inputs // groups, grid)


class QuantizedLinear(nn.Module):
    """A linear layer of quantized weights."""

    def __init__(self, weight: PackedWeight, bias: nn.Parameter | None):
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        product = self.weight(x)
        return product if self.bias is None else product + self.bias


class QuantizedEmbedding(nn.Module):
    """An embedding of quantized rows."""

    def __init__(self, weight: PackedWeight):
        super().__init__()
        self.weight = weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.weight.packed.chosen(tokens)


class QuantizedHead(nn.Module):
    """From the residual stream to logits. A summed loss restores the matrix for as long as it takes."""

    def __init__(self, weight: PackedWeight):
        super().__init__()
        self.weight = weight

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None, z_loss: float, output: Output | None) -> Tensor:
        if targets_BT is None and output is None:
            return self.weight(x_BTD)
        values = self.weight.packed.values().to(x_BTD.dtype)
        if output is not None:
            return output(x_BTD.flatten(0, 1), values)
        assert targets_BT is not None
        return linear_cross_entropy(x_BTD.flatten(0, 1), values, targets_BT.flatten(), z_loss)


def quantized_transformer(
    config: TransformerConfig, packed: dict[str, Packed], values: dict[str, Tensor], device: torch.device
) -> Transformer:
    """Return a model for inference with quantized matrices.

    Args:
        packed: each quantized matrix by its parameter's name.
        values: all other parameters.
    """
    with torch.device("meta"):
        model = Transformer(config)
    names = [name for name, _ in model.named_parameters()]
    weights: dict[str, PackedWeight] = {}
    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        kind = name.rpartition(".")[2]
        if name not in packed:
            setattr(module, kind, nn.Parameter(values[name].to(device), requires_grad=False))
            continue
        grid = packed[name].grid
        minimum = None if grid.minimum is None else grid.minimum.to(device)
        there = Packed(Grid(grid.scheme, grid.scale.to(device), minimum), packed[name].codes.to(device))
        weights[name] = PackedWeight(there)
    for name, weight in weights.items():
        path = name.removesuffix(".weight")
        parent, _, child = path.rpartition(".")
        holder = model.get_submodule(parent)
        if path == "embedding":
            model.embedding = QuantizedEmbedding(weight)  # type: ignore[assignment]
        elif path == "head":
            model.head = QuantizedHead(weight)  # type: ignore[assignment]
        else:
            setattr(holder, child, QuantizedLinear(weight, getattr(holder, child).bias))
    if config.tied_embeddings and "embedding.weight" in weights:
        model.head = QuantizedHead(weights["embedding.weight"])  # type: ignore[assignment]
    elif config.tied_embeddings:
        model.head.weight = cast(nn.Parameter, model.embedding.weight)
    return model.eval()
