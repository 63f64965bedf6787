"""Sections `model.tower`: one for each session tower of `fp_tfrs/towers/`, told apart by `name`."""

from __future__ import annotations

from typing import Literal

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
