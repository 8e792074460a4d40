"""The list of nodes, for the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .adm import SAGClassLabel, SAGLoadADM
from .guidance import SAGGuidance, SAGRecordAttention, SAGSampler
from .options import SAGMaskOptions, SAGSchedule
from .preset import SAGPreset
from .trace import SAGLoadTrace, SAGMaskPreview, SAGSaveTrace


class SAGExtension(ComfyExtension):
    """All nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SAGGuidance, SAGSampler, SAGMaskOptions, SAGSchedule, SAGPreset,
                SAGRecordAttention, SAGMaskPreview, SAGSaveTrace, SAGLoadTrace,
                SAGLoadADM, SAGClassLabel]
