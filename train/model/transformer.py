"""A decoder-only Transformer: pre-norm RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Computes what Llama computes for the same weights (Touvron et al. 2023), with Qwen-style options (biases, query-key
norm), and with `experts` what Mixtral computes. A batch goes `tokens → embedding → blocks → norm → head → loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_pipeline.foundation.errors import UserError
from train.model.attention import Attention, KeyValueCache, rotary_table
from train.model.cross_entropy import linear_cross_entropy
from train.model.documents import DocumentEnds, Documents, lay_out
from train.model.experts import MixtureOfExperts, Routed, RouterTally, with_loss_beside
from train.model.feed_forward import FeedForward
from train.model.layers import Embedding, RMSNorm
from train.model.ragged_cache import RaggedCache
from train.model.recomputation import BLOCKS, recomputation
from train.model.shared_sequence import SharedSequence
from train.model.split_layers import SplitLayers, parts_of

Output = Callable[[Tensor, Tensor], Tensor]
"""What is made of the last hidden states (N, D) and the head's weight (V, D), which only there is sure to be whole."""


@dataclass
class TransformerConfig:
    """The model's shape.

    Args:
        vocabulary_size: rows of the embedding; None takes the dataset's, rounded up to a multiple of 64.
        width: of the residual stream, D.
        layers: number of blocks.
        heads: query heads; `key_value_heads` of them share keys and values in equal groups.
        head_width: of one head; None for width / heads.
        hidden_width: of the feed-forward layer.
        maximum_length: most tokens a sequence may have.
        document_mask: attention stays within a document; None where documents are packed whole.
        experts: feed-forward layers of a block, of `hidden_width` each, that a router chooses from; 0 has one, and
            no router.
        active_experts: those that a token goes through.
        shared_width: hidden width of one more, which all tokens go through (Dai et al. 2024, DeepSeekMoE); 0 has none.
        balance_loss: weight of the loss that keeps all experts busy; see `Routed`.
        router_z_loss: weight of the loss that keeps a router's scores small; see `Routed`.
    """

    name: str = "custom"
    vocabulary_size: int | None = None
    width: int = 128
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 4
    head_width: int | None = None
    hidden_width: int = 352
    maximum_length: int = 1024
    rotary_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    tied_embeddings: bool = True
    query_key_norm: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    feed_forward_bias: bool = False
    document_mask: bool | None = None
    experts: int = 0
    active_experts: int = 2
    shared_width: int = 0
    balance_loss: float = 0.01
    router_z_loss: float = 0.001

    def resolve(self, dataset_vocabulary: int, packed: bool = False) -> TransformerConfig:
        """Return the configuration with what depends on the dataset filled in.

        Args:
            dataset_vocabulary: tokens of the dataset's vocabulary.
            packed: sequences are made of whole documents that have nothing to do with each other.

        Raises:
            UserError: sizes that don't fit together.
        """
        vocabulary = self.vocabulary_size or -(-dataset_vocabulary // 64) * 64
        if vocabulary < dataset_vocabulary:
            raise UserError(
                f"model.vocabulary_size={vocabulary} is smaller than the dataset's vocabulary of {dataset_vocabulary}: "
                "leave it out, or choose a model made for this tokenizer"
            )
        for key in ("width", "layers", "heads", "key_value_heads", "hidden_width", "maximum_length"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key}={getattr(self, key)} must be at least 1")
        if self.heads % self.key_value_heads:
            raise UserError(
                f"model.heads={self.heads} does not divide into model.key_value_heads={self.key_value_heads} groups"
            )
        if self.head_width is None and self.width % self.heads:
            raise UserError(f"model.width={self.width} does not divide by model.heads={self.heads}: set head_width")
        if self.width_of_head % 2:
            raise UserError(f"a head's width is {self.width_of_head}; rotary positions need an even one")
        self._check_experts()
        mask = packed if self.document_mask is None else self.document_mask
        return replace(self, vocabulary_size=vocabulary, document_mask=mask)

    def _check_experts(self) -> None:
        for key in ("experts", "shared_width", "balance_loss", "router_z_loss"):
            if getattr(self, key) < 0:
                raise UserError(f"model.{key}={getattr(self, key)} must not be below 0")
        if not self.experts:
            if self.shared_width:
                raise UserError(f"model.shared_width={self.shared_width} needs model.experts=8, or another number")
            return
        if not 1 <= self.active_experts < self.experts:
            raise UserError(
                f"model.active_experts={self.active_experts} must be at least 1 and below model.experts={self.experts}"
            )
        if self.feed_forward_bias:
            raise UserError(f"model.feed_forward_bias has no meaning with model.experts={self.experts}: leave it out")

    @property
    def width_of_head(self) -> int:
        return self.head_width or self.width // self.heads

    @property
    def idle_parameters(self) -> int:
        """Parameters that a token doesn't meet: those of the experts that aren't chosen for it."""
        if not self.experts:
            return 0
        return self.layers * (self.experts - self.active_experts) * 3 * self.width * self.hidden_width

    def flops_per_token(self, sequence_length: int) -> float:
        """Return the floating-point operations of one token's forward and backward pass.

        6 per parameter in a matrix product that a token goes through, plus attention's two products over the half of
        the sequence that causality leaves; recomputation is not counted (Chowdhery et al. 2022, PaLM, appendix B,
        halved for causality).
        """
        query_width = self.heads * self.width_of_head
        key_width = self.key_value_heads * self.width_of_head
        attention = self.width * (query_width + 2 * key_width) + query_width * self.width
        feed_forward = 3 * self.width * self.hidden_width
        if self.experts:
            feed_forward = feed_forward * self.active_experts + self.width * (3 * self.shared_width + self.experts)
        matrices = self.layers * (attention + feed_forward) + self.width * (self.vocabulary_size or 0)
        return 6.0 * matrices + 6.0 * self.layers * query_width * sequence_length


class Block(nn.Module):
    """Attention and feed-forward layer, each behind a norm and beside the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int, split: SplitLayers | None = None):
        super().__init__()
        self.attention_norm = RMSNorm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config, layer, split)
        self.feed_forward_norm = RMSNorm(config.width, eps=config.norm_epsilon)
        self.feed_forward = MixtureOfExperts(config, split) if config.experts else FeedForward(config, split=split)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor],
        documents: Documents | None = None,
        cache: KeyValueCache | RaggedCache | None = None,
    ) -> tuple[Tensor, Routed | None]:
        """Return the residual stream, and in training what a router did."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary, documents, cache)
        if isinstance(self.feed_forward, FeedForward):
            return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD)), None
        output_BTD, routed = self.feed_forward(self.feed_forward_norm(x_BTD))
        return x_BTD + output_BTD, routed


class Head(nn.Module):
    """From the residual stream to logits, or straight to the summed loss without holding all logits."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        assert config.vocabulary_size is not None
        self.weight = nn.Parameter(torch.empty(config.vocabulary_size, config.width))
        self.fused = False
        self.view: Callable[[Tensor], Tensor] | None = None

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None, z_loss: float, output: Output | None) -> Tensor:
        weight = self.weight if self.view is None else self.view(self.weight)
        if output is not None:
            return output(x_BTD.flatten(0, 1), weight)
        if targets_BT is None:
            return x_BTD @ weight.t()
        fused = self.fused and torch.is_grad_enabled()
        return linear_cross_entropy(x_BTD.flatten(0, 1), weight, targets_BT.flatten(), z_loss, fused)


class Transformer(nn.Module):
    """The whole model. `config` must be resolved.

    Weights are left as PyTorch makes them; `initialise_weights` sets them.

    Args:
        split: over which ranks its blocks are; it then holds this rank's part of them, whatever `config` says.
    """

    def __init__(self, config: TransformerConfig, split: SplitLayers | None = None):
        super().__init__()
        assert config.vocabulary_size is not None, "resolve() the configuration first"
        self.config = config
        self.checkpoint_activations, self.recomputation = False, recomputation(BLOCKS)
        self.tally: RouterTally | None = None
        self.shared: SharedSequence | None = None
        self.embedding = Embedding(config.vocabulary_size, config.width)
        self.blocks = nn.ModuleList(Block(config, layer, split) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, eps=config.norm_epsilon)
        self.head = Head(config)
        if config.tied_embeddings:
            self.head.weight = cast(nn.Parameter, self.embedding.weight)
        if split is not None:
            split.mark(self)
        # What a cache is made by: it holds the heads that are here.
        self.cached = replace(config, key_value_heads=config.key_value_heads // parts_of(split))

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        document_ends: DocumentEnds | None = None,
        cache: KeyValueCache | RaggedCache | None = None,
        z_loss: float = 0.0,
        at_BN: Tensor | None = None,
        output: Output | None = None,
    ) -> Tensor:
        """Return logits (B, T, vocabulary), or with targets the summed loss over them, a float32 scalar.

        In training, routers' own losses have their part in a summed loss's gradient, and what they do is added to
        `tally`.
        Where ranks share sequences, tokens and targets are this rank's part, and so is what is returned; with a cache
        they are whole.

        Args:
            tokens_BT: int64 token ids.
            targets_BT: int64 ids of the next tokens; negative ones don't count.
            document_ends: per whole sequence; attention then stays within a document, and positions begin anew there.
            cache: keys and values of earlier tokens; the new ones are added.
            z_loss: weight of the squared log-partition in the loss.
            at_BN: positions in T of each sequence whose logits alone are wanted; the result is (B, N, vocabulary).
            output: makes something else of hidden states and head, which is returned; with targets, a summed loss.
        """
        documents = None if document_ends is None else lay_out(document_ends, tokens_BT.device)
        positions = self._positions(tokens_BT, documents, cache)
        cosine, sine = rotary_table(positions, self.config.width_of_head, self.config.rotary_theta)
        x_BTD = self.embedding(tokens_BT)
        rotary = (cosine.to(x_BTD.dtype), sine.to(x_BTD.dtype))
        routers: list[Routed] = []
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                again = self.recomputation
                with again.keeping():
                    x_BTD, routed = checkpoint(
                        block, x_BTD, rotary, documents, cache, use_reentrant=False, **again.options
                    )
            else:
                x_BTD, routed = block(x_BTD, rotary, documents, cache)
            if routed is not None:
                routers.append(routed)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        if at_BN is not None:
            x_BTD = x_BTD.gather(1, at_BN.unsqueeze(-1).expand(-1, -1, x_BTD.shape[-1]))
        result = self.head(self.norm(x_BTD), targets_BT, z_loss, output)
        if not routers:
            return result
        of_routers = self._routers_loss(routers, targets_BT)
        return result if targets_BT is None else with_loss_beside(result, of_routers)

    def share_sequences(self, shared: SharedSequence | None) -> None:
        """Let the model have a rank's part of sequences from now on, or with None whole ones."""
        self.shared = shared
        for module in self.modules():
            if isinstance(module, (Attention, MixtureOfExperts)):
                module.shared = shared

    def _positions(
        self, tokens_BT: Tensor, documents: Documents | None, cache: KeyValueCache | RaggedCache | None
    ) -> Tensor:
        """Return (T,), or within documents (B, T)."""
        if documents is not None:
            positions_BT = documents.positions_BT
            return positions_BT if self.shared is None else self.shared.part(positions_BT)
        tokens = tokens_BT.shape[1]
        if cache is not None:
            return cache.positions(tokens)
        first = 0 if self.shared is None else self.shared.number * tokens
        return torch.arange(first, first + tokens, device=tokens_BT.device)

    def _routers_loss(self, routers: list[Routed], targets_BT: Tensor | None) -> Tensor:
        """Return the routers' summed loss, a sequence weighing as much as it has targets; count what they did."""
        balance_B = torch.stack([each.balance_B for each in routers]).sum(0)
        z_B = torch.stack([each.z_B for each in routers]).sum(0)
        targets_B = torch.zeros_like(z_B) if targets_BT is None else (targets_BT >= 0).sum(1)
        if self.shared is not None:
            targets_B = self.shared.sum(targets_B)
        balance, z = (balance_B * targets_B).sum(), (z_B * targets_B).sum()
        tally = RouterTally(balance.detach(), z.detach(), torch.stack([each.load_E for each in routers]))
        self.tally = tally if self.tally is None else self.tally + tally
        return self.config.balance_loss * balance + self.config.router_z_loss * z
