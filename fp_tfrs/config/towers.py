"""Sections `model.tower`: one for each session tower of `fp_tfrs/towers/`, told apart by `name`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from fp_tfrs.config.section import Section, field


class NarmConfig(Section):
    """NARM (Li et al., CIKM 2017). Defaults follow the paper; variants: code = authors' code, RecBole = RecBole 1.2.1."""

    name: Literal["narm"] = field("narm", "session tower")
    embedding_dim: int = field(100, "item embedding D", "SR-GNN's and STAMP's size; NARM's own is 50", ge=1)
    hidden_dim: int = field(100, "GRU state", "NARM", ge=1)
    attention: Literal["none", "softmax"] = field(
        "none", "normalisation of the attention weights: none (paper, RecBole), softmax (code)", "NARM"
    )
    is_hard_sigmoid: bool = field(False, "hard sigmoid in GRU gates and attention (code)", "NARM")
    has_gru_bias: bool = field(True, "bias in the GRU (paper, code); RecBole has none", "NARM")
    is_reset_after: bool = field(
        False, "GRU's reset gate after the recurrent product (RecBole, i.e. PyTorch) or before (code)", "NARM's code"
    )
    concat: Literal["global_local", "local_global"] = field(
        "global_local", "order of the two session vectors: global_local (paper, RecBole), local_global (code)", "NARM"
    )
    dropout_embedding: float = field(0.25, "dropout on item embeddings", "NARM", ge=0, lt=1)
    dropout_context: float = field(0.5, "dropout on the two session vectors", "NARM", ge=0, lt=1)


class Gru4RecConfig(Section):
    """GRU4Rec (Hidasi et al., ICLR 2016). Variants: code = the authors' PyTorch version, RecBole = RecBole 1.2.1."""

    name: Literal["gru4rec"] = field("gru4rec", "session tower")
    embedding_dim: int = field(100, "item embedding D", "as the other towers; RecBole's is 64", ge=1)
    hidden_dim: int = field(100, "GRU state", "GRU4Rec; RecBole has 128", ge=1)
    n_layers: int = field(1, "GRU layers, each with hidden_dim units", "GRU4Rec", ge=1)
    has_gru_bias: bool = field(True, "bias in the GRU (code); RecBole has none", "GRU4Rec's code")
    is_reset_after: bool = field(
        True, "GRU's reset gate after the recurrent product (code, RecBole) or before (paper)", "GRU4Rec's code"
    )
    has_projection: bool = field(
        True, "a dense layer from GRU state to D (RecBole); without it (code) hidden_dim must be D", "RecBole"
    )
    dropout_embedding: float = field(0.3, "dropout on item embeddings", "RecBole", ge=0, lt=1)
    dropout_hidden: float = field(0.0, "dropout on the output of each GRU layer (code)", "RecBole", ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Gru4RecConfig:
        if not self.has_projection and self.hidden_dim != self.embedding_dim:
            raise ValueError(
                f"has_projection: false needs hidden_dim = embedding_dim, not {self.hidden_dim} and {self.embedding_dim}"
            )
        return self


class SasRecConfig(Section):
    """SASRec (Kang and McAuley, ICDM 2018). Variants: code = authors' code, RecBole = RecBole 1.2.1."""

    name: Literal["sasrec"] = field("sasrec", "session tower")
    embedding_dim: int = field(100, "item embedding D", "as the other towers; SASRec has 50, RecBole 64", ge=1)
    n_layers: int = field(2, "self-attention blocks", "SASRec", ge=1)
    n_heads: int = field(2, "attention heads, a divisor of D; the code has 1", "RecBole", ge=1)
    hidden_dim: int = field(256, "units inside a block's feed-forward net; the code has D", "RecBole", ge=1)
    block: Literal["pre_norm", "post_norm", "code"] = field(
        "pre_norm",
        "layer norm before attention and feed-forward net, after them (RecBole), or of queries and residual only (code)",
        "our choice: trains without warm-up",
    )
    activation: Literal["gelu", "relu"] = field(
        "gelu", "of the feed-forward net: gelu (RecBole), relu (code)", "RecBole"
    )
    norm_epsilon: float = field(1e-8, "added to the variance in layer norms; RecBole has 1e-12", "SASRec's code", gt=0)
    is_embedding_scaled: bool = field(
        True, "item embeddings times √D before positions are added (code); RecBole does not", "SASRec's code"
    )
    max_positions: int = field(50, "learned positions; at least data.sessions.max_length", "SASRec; RecBole", ge=1)
    dropout: float = field(
        0.2,
        "on embeddings, attention weights and the results of a block's parts",
        "RecBole-GNN on Diginetica",
        ge=0,
        lt=1,
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> SasRecConfig:
        if self.embedding_dim % self.n_heads:
            raise ValueError(f"embedding_dim {self.embedding_dim} is not a multiple of n_heads {self.n_heads}")
        return self


class SrGnnConfig(Section):
    """SR-GNN (Wu et al., AAAI 2019). Variants: code = authors' PyTorch code, RecBole = RecBole 1.2.1."""

    name: Literal["sr_gnn"] = field("sr_gnn", "session tower")
    embedding_dim: int = field(100, "item embedding D, also the node state", "SR-GNN", ge=1)
    edge_weight: Literal["once", "count"] = field(
        "once",
        "an edge that a prefix repeats counts once (code, RecBole), or as often as it occurs (paper)",
        "SR-GNN's code",
    )
    dropout_embedding: float = field(0.0, "dropout on item embeddings; the paper has none", "SR-GNN", ge=0, lt=1)


class StampConfig(Section):
    """STAMP (Liu et al., KDD 2018). Variants: code = authors' code, RecBole = RecBole 1.2.1."""

    name: Literal["stamp"] = field("stamp", "session tower")
    embedding_dim: int = field(100, "item embedding D, also of every hidden vector", "STAMP", ge=1)
    has_added_memory: bool = field(
        True,
        "the mean of the prefix's items is added to what attention reads (code, RecBole; not paper)",
        "STAMP's code",
    )
    has_bias: bool = field(True, "bias in attention and in both perceptrons (paper, RecBole; not code)", "STAMP")
    max_norm: float | None = field(
        None, "longer item embeddings are shortened to this where they are inputs (code: 1.0 or 1.5)", "STAMP", gt=0
    )
    dropout_embedding: float = field(0.0, "dropout on item embeddings; the paper has none", "STAMP", ge=0, lt=1)


class SdmConfig(Section):
    """SDM (Lv et al., CIKM 2019), XDM's base. Variants: code = authors' code."""

    name: Literal["sdm"] = field("sdm", "session tower")
    embedding_dim: int = field(
        100, "item and user embedding D, also of every hidden vector", "as the other towers", ge=1
    )
    n_layers: int = field(1, "LSTM layers", "SDM's code", ge=1)
    is_residual: bool = field(True, "from the second LSTM on, its input is added to its output", "SDM")
    n_heads: int = field(4, "attention heads, a divisor of D", "SDM, off-line", ge=1)
    has_users: bool = field(
        False, "the user's embedding weighs the session's events; needs data.columns.user_id", "SDM"
    )
    has_history: bool = field(
        False, "items of the user's earlier sessions are fused with the session; needs has_users, data.history", "SDM"
    )
    user_attention: Literal["paper", "code"] = field(
        "paper",
        "softmax of the user's dot products with the items (paper), or of learned projections, scaled, with the event's own "
        "vector added (code)",
        "SDM",
    )
    dropout: float = field(0.2, "on LSTM inputs, self-attention's weights and its result", "SDM", ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> SdmConfig:
        if self.embedding_dim % self.n_heads:
            raise ValueError(f"embedding_dim {self.embedding_dim} is not a multiple of n_heads {self.n_heads}")
        if self.has_history and not self.has_users:
            raise ValueError("has_history needs has_users: the user's embedding weighs the items of the history")
        return self


def _name_the_default(values: Any) -> Any:
    """A section without a name is NARM's."""
    return {"name": "narm", **values} if isinstance(values, dict) else values


TowerConfig = Annotated[
    NarmConfig | Gru4RecConfig | SasRecConfig | SrGnnConfig | StampConfig | SdmConfig,
    pydantic.Field(discriminator="name"),
    pydantic.BeforeValidator(_name_the_default),
]
