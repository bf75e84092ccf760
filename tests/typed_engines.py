"""What each engine offers is what losses ask of one: for mypy, which runs none of this."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastce.cpu.engine import Cpu
    from fastce.cpu.layer import LayerLosses as LayerLossesOfCpu
    from fastce.cpu.panel_losses import ClassLosses as ClassLossesOfCpu
    from fastce.cpu.tile_similarity import LabelSimilarity, TileSimilarity
    from fastce.cuda.engine import Gpu
    from fastce.cuda.layer import LayerLosses
    from fastce.cuda.panel_losses import ClassLosses
    from fastce.cuda.self_similarity import LabelLosses, PartnerLosses
    from fastce.cuda.similarity import PanelSimilarity
    from fastce.losses.siglip import Sigmoids
    from fastce.products.engine import Engine
    from fastce.products.layer import LayerLoss
    from fastce.products.loss import Loss

    ENGINES: list[type[Engine]] = [Cpu, Gpu]
    LOSSES: list[type[Loss]] = [
        TileSimilarity, LabelSimilarity, ClassLossesOfCpu, PanelSimilarity, PartnerLosses, LabelLosses, ClassLosses,
        Sigmoids,
    ]  # fmt: skip
    LOSSES_OF_LAYERS: list[type[LayerLoss]] = [LayerLossesOfCpu, LayerLosses]
