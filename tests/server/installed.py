"""What an installed pack must do, wherever its files came from."""

import json
from pathlib import Path

from tests.server.examples import short
from tools.client import ComfyClient
from tools.prompt import find_node


def check_pack(client: ComfyClient, pack: Path) -> None:
    """The quickstart of a pack in custom_nodes runs and shows its mask; frontend, texts and templates are served."""
    prompt = short(json.loads((pack / "example_workflows" / "api" / "quickstart.json").read_text(encoding="utf-8")))
    history = client.run(prompt)
    for prefix in ("SAG_quickstart", "SAG_attention"):
        images = history.images(find_node(prompt, "SaveImage", filename_prefix=prefix))
        assert [client.image(image)[:4] for image in images] == [b"\x89PNG"] * 2
    assert f"/extensions/{pack.name}/js/index.js" in client.get_json("/extensions")
    assert "quickstart" in client.get_json("/workflow_templates")[pack.name]
    translated = client.get_json("/i18n")
    assert all("SAGGuidance" in translated[language]["nodeDefs"] for language in ("ja", "ko", "zh"))
