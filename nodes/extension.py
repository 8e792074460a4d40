"""The list of nodes, for the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .adm import SAGClassLabel, SAGLoadADM, SAGLowResImage
from .adm_sampler import SAGADMSampler
from .analysis import SAGFrequencyAnalysis, SAGMaskOverlap
from .classifier import SAGClassifierGuidance, SAGLoadClassifier
from .compare import SAGCompareGrid
from .guidance import SAGGuidance, SAGRecordAttention, SAGSampler
from .host.folder import check_folder_name
from .options import SAGMaskOptions, SAGSchedule
from .preset import SAGPreset
from .study import SAGABPairs, SAGABScore
from .trace import SAGLoadTrace, SAGMaskPreview, SAGSaveTrace
from .visualize import SAGVisualize


class SAGExtension(ComfyExtension):
    """All nodes of this pack."""

    async def on_load(self) -> None:
        check_folder_name()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SAGGuidance, SAGSampler, SAGMaskOptions, SAGSchedule, SAGPreset,
                SAGRecordAttention, SAGMaskPreview, SAGSaveTrace, SAGLoadTrace,
                SAGFrequencyAnalysis, SAGMaskOverlap, SAGVisualize, SAGCompareGrid,
                SAGABPairs, SAGABScore,
                SAGLoadADM, SAGClassLabel, SAGLowResImage, SAGADMSampler, SAGLoadClassifier, SAGClassifierGuidance]
