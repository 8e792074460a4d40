"""What a user loads is untrusted: no pickle runs, errors say what a file is, nothing is overwritten or left."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from tests.host import adm, models
from tests.host.graph import call, guide, sample


class Command:
    """Unpickling this makes a directory."""

    def __init__(self, directory):
        self.directory = str(directory)

    def __reduce__(self):
        return os.mkdir, (self.directory,)


def refusal(name: str) -> str:
    """The error with which the node refuses a checkpoint; it names the file, or what is wrong with its tensors."""
    with pytest.raises(ValueError) as error:
        call("SAGLoadADM", ckpt_name=name)
    assert name in str(error.value) or "does not fit its architecture" in str(error.value)
    return str(error.value)


def test_invariant_8_code_in_a_checkpoint_is_refused_and_not_run(checkpoints, tmp_path):
    trap = tmp_path / "ran"
    torch.save(adm.weights() | {"extra": Command(trap)}, checkpoints / "trap.pt")
    assert "could run code" in refusal("trap.pt")
    assert not trap.exists()
    with pytest.raises(pickle.UnpicklingError):  # the trap does work where nobody looks
        torch.load(checkpoints / "trap.pt", weights_only=True)
    torch.load(checkpoints / "trap.pt", weights_only=False)
    assert trap.exists()


def test_invariant_8_pickle_of_tensors_alone_loads(checkpoints):
    torch.save(adm.weights(), checkpoints / "tensors.pt")
    pickled, _ = call("SAGLoadADM", ckpt_name="tensors.pt")
    tiny = adm.load(checkpoints)
    assert torch.equal(sample(tiny, pickled, steps=1), sample(tiny, steps=1))


FOREIGN = {
    "Stable Diffusion": ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion style checkpoint"),
    "LoRA": ("lora_unet_down_blocks_0.lora_up.weight", "a LoRA"),
    "Flux": ("double_blocks.0.img_attn.qkv.weight", "Flux style"),
    "VAE": ("encoder.conv_in.weight", "a VAE"),
    "text encoder": ("text_model.embeddings.token_embedding.weight", "a text encoder"),
    "anything": ("w", "something else: 1 tensors, the first is 'w'"),
}


@pytest.mark.parametrize(("tensor", "what"), FOREIGN.values(), ids=FOREIGN)
def test_invariant_8_other_models_are_refused_by_what_they_are(checkpoints, tensor, what):
    save_file({tensor: torch.zeros(2)}, checkpoints / "other.safetensors")
    assert what in refusal("other.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_invariant_8_truncated_checkpoint(checkpoints, suffix, part):
    path = checkpoints / f"half.{suffix}"
    if suffix == "pt":
        torch.save(adm.weights(), path)
    else:
        save_file(adm.weights(), path)
    data = path.read_bytes()
    path.write_bytes(data[:int(part * len(data))])
    refusal(path.name)


@pytest.mark.parametrize("name", ["noise.safetensors", "noise.pt"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"<html>404</html>", bytes(range(256)) * 8],
                         ids=["empty", "zeros", "web page", "bytes"])
def test_invariant_8_junk_checkpoint(checkpoints, name, content):
    (checkpoints / name).write_bytes(content)
    refusal(name)


LACKING = ["input_blocks.0.0.weight", "time_embed.0.weight", "input_blocks.1.0.out_layers.3.weight",
           "input_blocks.1.0.emb_layers.1.weight", "middle_block.1.qkv.weight", "input_blocks.3.1.qkv.weight",
           "output_blocks.1.2.in_layers.0.weight", "out.2.weight", "out.2.bias"]


@pytest.mark.parametrize("missing", LACKING)
def test_invariant_8_checkpoint_that_lacks_a_tensor(checkpoints, missing):
    tensors = adm.weights()
    del tensors[missing]
    save_file(tensors, checkpoints / "lacks.safetensors")
    refusal("lacks.safetensors")


def test_invariant_8_checkpoint_without_decoder(checkpoints):
    save_file({name: t for name, t in adm.weights().items() if "output_blocks" not in name},
              checkpoints / "encoder.safetensors")
    refusal("encoder.safetensors")


@pytest.mark.parametrize("name", ["out.2.weight", "input_blocks.3.1.qkv.weight", "time_embed.2.bias"])
def test_invariant_8_checkpoint_with_a_tensor_of_another_shape(checkpoints, name):
    tensors = adm.weights()
    tensors[name] = torch.zeros(5, *tensors[name].shape[1:])
    save_file(tensors, checkpoints / "shape.safetensors")
    refusal("shape.safetensors")


@pytest.mark.parametrize("config", ["", "[]", "{}", '{"model_channels": "many"}', json.dumps({"model_channels": -1})])
def test_invariant_8_checkpoint_with_a_bad_configuration(checkpoints, config):
    save_file(adm.weights(), checkpoints / "config.safetensors", {"adm_config": config})
    refusal("config.safetensors")


@pytest.mark.parametrize("name", ["../outside.safetensors", "sub/../../outside.safetensors"])
def test_invariant_8_checkpoint_names_do_not_lead_outside_the_folder(checkpoints, name):
    save_file(adm.weights(), checkpoints.parent / "outside.safetensors")
    with pytest.raises((FileNotFoundError, ValueError)):
        call("SAGLoadADM", ckpt_name=name)


@pytest.fixture
def run():
    """A sampled run: (trace, latent)."""
    tiny = models.sd15()
    guided, trace = guide(tiny.model)
    return trace, {"samples": sample(tiny, guided)}


JUNK = {
    "empty": b"", "zeros": b"\x00" * 64, "web page": b"<html>404</html>", "pickle": pickle.dumps({"steps": [1]}),
    "header": (2 ** 40).to_bytes(8, "little") + b"{}"}


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
def test_invariant_8_junk_trace(output_folder, content):
    (output_folder / "junk.sag.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="junk.sag.safetensors cannot be read"):
        call("SAGLoadTrace", trace_name="junk.sag.safetensors [output]")


BAD_RECORDINGS = {
    "not JSON": "{", "a list": "[]", "no steps": "{}", "steps of nothing": '{"steps": [{}]}',
    "steps that are missing": json.dumps({"size": [16, 24], "threshold": 1, "notes": [], "steps": [
        {"sigma": 1, "layer": "middle.0", "branch": "cond", "guided": True}] * 3})}


@pytest.mark.parametrize("recording", BAD_RECORDINGS.values(), ids=BAD_RECORDINGS)
def test_invariant_8_trace_whose_description_lies(output_folder, recording):
    tensors = {"samples": torch.zeros(1, 4, 16, 24), "steps.0": torch.ones(1, 8, 12)}
    save_file(tensors, output_folder / "bad.sag.safetensors", {"format": "sag-trace-1", "recording": recording})
    with pytest.raises(ValueError, match="bad.sag.safetensors"):
        call("SAGLoadTrace", trace_name="bad.sag.safetensors [output]")


def test_invariant_8_safetensors_that_are_no_trace(output_folder):
    save_file({"a": torch.zeros(1)}, output_folder / "a.sag.safetensors")
    with pytest.raises(ValueError, match="a.sag.safetensors cannot be read as an attention trace"):
        call("SAGLoadTrace", trace_name="a.sag.safetensors [output]")


def test_invariant_8_trace_names_do_not_lead_outside_the_folders(output_folder, run):
    inner = output_folder / "inner"
    inner.mkdir()
    call("SAGSaveTrace", trace=run[0], latent=run[1], filename_prefix="secret")
    (secret,) = output_folder.glob("*.sag.safetensors")
    import folder_paths

    folder_paths.output_directory = str(inner)
    outside = f"../{secret.name} [output]", f"inner/../../{secret.name} [output]", str(secret), f"{secret} [output]"
    for name in outside:
        with pytest.raises(ValueError, match="neither the output nor the input folder"):
            call("SAGLoadTrace", trace_name=name)


@pytest.mark.parametrize("prefix", ["../escape", "/tmp/escape", "a/../../escape"])
def test_invariant_8_saving_does_not_leave_the_output_folder(output_folder, run, prefix):
    with pytest.raises(Exception, match="outside the output folder"):
        call("SAGSaveTrace", trace=run[0], latent=run[1], filename_prefix=prefix)
    assert not list(output_folder.parent.glob("escape*"))


def test_invariant_8_saving_never_overwrites(output_folder, run):
    for _ in range(3):
        call("SAGSaveTrace", trace=run[0], latent=run[1], filename_prefix="run")
    files = sorted(output_folder.iterdir())
    assert len(files) == 3
    untouched = [(f, f.read_bytes()) for f in files]
    call("SAGSaveTrace", trace=run[0], latent=run[1], filename_prefix="run")
    assert all(f.read_bytes() == content for f, content in untouched)
    assert len(list(output_folder.iterdir())) == 4
