"""RFD4-Proteina: attention over residues biased by pairs, which have updates too."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import RFD4ProteinaTransformer
from torch import nn

from denoisers.base import Denoiser


def _proteina() -> nn.Module:
    return RFD4ProteinaTransformer(
        nlayers=3,
        token_dim=32,
        nheads=2,
        dim_cond=8,
        pair_repr_dim=16,
        latent_dim=4,
        token_type_emb_dim=8,
        cath_emb_dim=4,
        t_emb_dim=16,
        seq_sep_dim=8,
        xt_pair_dist_dim=8,
        feats_seq=("xt_bb_ca", "xt_local_latents", "token_type"),
        feats_cond_seq=("time_emb_bb_ca", "time_emb_local_latents"),
        feats_pair_repr=("xt_bb_ca_pair_dists", "index_group_pair"),
        update_pair_repr_every_n=1,
        tri_mult_c=16,
        num_sequence_classes=20,
    )


def _proteina_inputs() -> dict[str, Any]:
    tokens = torch.zeros(2, 16, dtype=torch.bool)
    return {
        "bb_ca": torch.randn(2, 16, 3),
        "local_latents": torch.randn(2, 16, 4),
        "bb_ca_time": torch.zeros(2),
        "local_latents_time": torch.zeros(2),
        "padding_mask": ~tokens,
        "token_type": torch.randint(0, 7, (2, 16)),
        "conditioning": {
            "is_in_context_conditioning": tokens,
            "supports_local_latent": ~tokens,
            "condition_index-group_1_token": torch.randint(0, 3, (2, 16)),
        },
    }


DENOISERS = [
    # 3 layers: attention, MLP; between them 2 updates of the pairs: two triangle
    # multiplications, MLP; the linear of the residues' products is a single map
    Denoiser(
        "RFD4ProteinaTransformer",
        _proteina,
        _proteina_inputs,
        regions=12,
        latent="bb_ca",
        timestep="bb_ca_time",
        also=("local_latents_time",),
        first=0.0,
        last=0.98,
    ),
]
