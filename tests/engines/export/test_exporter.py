"""`engines export` on the tiny model: four files that other programs take, all of them or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from engines import cli
from engines.backends.onnxruntime.runtime import session_options
from engines.backends.tensorrt import plan
from engines.check import verify
from engines.export import exporter, graphs
from engines.export.exporter import ExportRequest, export_graphs
from engines.export.sizes import MAX_OPSET, MIN_OPSET, Sizes
from engines.manifest import installed_version
from engines.model.locate import Weights, find_weights
from engines.model.networks import Networks, load_networks
from engines.source import AdditionNames
from tests.engines.conftest import Ended
from tests.engines.export.test_graphs import NAMES
from tests.engines.model.loras import save
from tests.engines.required import required
from tests.models import tiny_model

FILES = [f"{name}.onnx" for name in NAMES]
ELEMENTS = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}


def model_options() -> list[str]:
    model = tiny_model()
    return ["--model", f"{model / 'model'}", "--controlnet", f"{model / 'controlnet'}"]


@pytest.fixture(scope="module")
def weights() -> Weights:
    model = tiny_model()
    return find_weights(str(model / "model"), str(model / "controlnet"))


@pytest.fixture(scope="module")
def networks(weights: Weights) -> Networks:
    return load_networks(weights)


@pytest.fixture(scope="module")
def folder(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four graphs, with dynamic sizes."""
    out = tmp_path_factory.mktemp("export") / "onnx"
    exported = export_graphs(ExportRequest(weights, out, Sizes(None, ((64, 64),))))
    assert exported.ok
    return out


@pytest.fixture
def only_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that is exported fastest, for what does not depend on the graph."""
    monkeypatch.setattr(graphs, "GRAPHS", ("CLIP",))


def outputs(folder: Path, name: str, **inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", session_options())
    return [torch.from_numpy(array) for array in session.run(None, {key: x.numpy() for key, x in inputs.items()})]


def test_the_folder_holds_the_four_files_and_what_is_said_of_them(folder: Path, weights: Weights) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "export.json"])
    assert list(folder.parent.iterdir()) == [folder]
    told = json.loads((folder / "export.json").read_text())
    assert (told["ok"], told["opset"], told["shape"]) == (True, 18, "dynamic")
    assert told["weights"] == weights.digest
    assert (told["scaling_factor"], told["schedule"]["prediction_type"]) == (0.18215, "epsilon")
    assert [graph["name"] for graph in told["graphs"]] == FILES
    for graph in told["graphs"]:
        assert graph["rtol"] == 1e-3
        assert {run["batch"] for run in graph["runs"]} == {1, 3}
        assert graph["bytes"] == (folder / graph["name"]).stat().st_size
    clip, control_net, _, decoder = told["graphs"]
    assert [(run["tokens"], run["height"]) for run in clip["runs"]] == [(77, None), (16, None)]
    assert [(run["tokens"], run["width"]) for run in control_net["runs"]] == [(77, 64), (154, 64)]
    assert [(run["tokens"], run["width"]) for run in decoder["runs"]] == [(None, 64), (None, 64)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_the_tensors_that_are_said_of_it_and_onnxs_own_operators(folder: Path, name: str) -> None:
    model = onnx.load(folder / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {(each.domain, each.version) for each in model.opset_import} == {("", 18)}
    assert {node.domain for node in model.graph.node} == {""}
    told = next(
        each for each in json.loads((folder / "export.json").read_text())["graphs"] if name in each["name"][:-5]
    )
    for kind, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
        assert [value.name for value in values] == [tensor["name"] for tensor in told[kind]]
        for value, tensor in zip(values, told[kind], strict=True):
            assert value.type.tensor_type.elem_type == ELEMENTS[tensor["dtype"]]
            shape = [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]
            assert shape == tensor["shape"]
            assert shape[0] == "N"


def test_the_graphs_together_are_a_guided_step_of_diffusers(folder: Path, networks: Networks) -> None:
    """At a size, a batch and a prompt that were not checked; the scales are applied in between, as the ports do it."""
    torch.manual_seed(1)
    ids = torch.randint(0, 512, (2, 9), dtype=torch.int32)
    x_noisy, hint = torch.randn(2, 4, 16, 8), torch.rand(2, 3, 128, 64).round()
    timestep = torch.tensor([981, 1], dtype=torch.int32)
    scales = [0.7 * 0.825 ** (12 - i) for i in range(13)]

    (context,) = outputs(folder, "CLIP", input_ids=ids)
    controls = outputs(folder, "CONTROL_NET", x_noisy=x_noisy, hint=hint, timestep=timestep, context=context)
    scaled = {f"control{i}": control * scales[i] for i, control in enumerate(controls)}
    (noise,) = outputs(folder, "CONTROL_UNET", x_noisy=x_noisy, timestep=timestep, context=context, **scaled)
    (image,) = outputs(folder, "DECODER", latent=x_noisy / 0.18215)

    with torch.no_grad():
        text = networks.text_encoder(ids.long()).last_hidden_state
        down, mid = networks.controlnet(x_noisy, timestep, text, hint, return_dict=False)
        steered = networks.unet(
            x_noisy,
            timestep,
            text,
            down_block_additional_residuals=[each * scale for each, scale in zip(down, scales[:-1], strict=True)],
            mid_block_additional_residual=mid * scales[-1],
        ).sample
        decoded = networks.vae.decode(x_noisy / networks.vae.config.scaling_factor).sample
    torch.testing.assert_close(context, text, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(noise, steered, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(image, decoded, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_tensorrts_parser_takes_the_file_with_its_names_and_types(folder: Path, name: str) -> None:
    trt: Any = required("tensorrt_rtx")
    log = plan.PlanLog(trt)
    builder = trt.Builder(log.logger)
    network = plan.parsed_network(trt, builder, folder / f"{name}.onnx", log)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    assert [tensor.name for tensor in inputs] == NAMES[name][0]
    assert [network.get_output(i).name for i in range(network.num_outputs)] == NAMES[name][1]
    whole = {tensor.name for tensor in inputs if tensor.dtype == trt.DataType.INT32}
    assert whole == {"input_ids", "timestep"} & set(NAMES[name][0])


@pytest.mark.usefixtures("only_clip")
def test_the_command_exports_prints_and_replaces_what_it_wrote(engines: Callable[..., Ended], tmp_path: Path) -> None:
    out, left = tmp_path / "onnx", tmp_path / "onnx.building"
    (left / "tmp1").mkdir(parents=True)  # as a killed export leaves it
    for path in (left / "tmp1" / "CLIP.onnx", left / "CLIP.onnx", left / "DECODER.onnx"):
        path.write_text("half a file")
    ended = engines("export", *model_options(), "--shape", "64x64", "--out", out)
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in out.iterdir()) == ["CLIP.onnx", "export.json"]
    told = json.loads(ended.out)
    assert ended.out.count("\n") == 1
    assert {"out": str(out), **json.loads((out / "export.json").read_text())} == told
    assert (told["shape"], told["opset"]) == ("64x64", 18)
    for words in ("CLIP: export done in", "CLIP: check done in", "holds at rtol / atol", "1e-03 / 1e-05"):
        assert words in ended.err
    assert ended.err.endswith(f"{out}: opset 18, 64x64 size, all graphs hold")

    again = engines("export", *model_options(), "--opset", MIN_OPSET, "--shape", "dynamic", "--out", out)
    assert again.code == 0, again.err
    assert (json.loads(again.out)["shape"], json.loads(again.out)["opset"]) == ("dynamic", MIN_OPSET)
    assert onnx.load(out / "CLIP.onnx").opset_import[0].version == MIN_OPSET
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


@pytest.mark.usefixtures("only_clip")
def test_a_graph_that_no_pair_holds_for_ends_with_10_and_leaves_the_folder_as_it_was(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "onnx"
    out.mkdir()
    before = {"CLIP.onnx": "an earlier one", "export.json": '{"graphs": [{"files": {"CLIP.onnx": "0"}}]}'}
    for name, text in before.items():
        (out / name).write_text(text)
    monkeypatch.setattr(verify, "LADDER", ((0.0, 0.0),))  # onnxruntime rounds otherwise than torch
    ended = engines("export", *model_options(), "--opset", MAX_OPSET, "--out", out)
    assert ended.code == 10
    assert "error: CLIP.onnx differs from torch: its largest error is " in ended.err
    assert ended.err.endswith(f"{out} is as it was")
    assert "none" in ended.err
    told = json.loads(ended.out)
    assert (told["ok"], told["graphs"][0]["rtol"], told["opset"]) == (False, None, MAX_OPSET)
    assert {path.name: path.read_text() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("only_clip")
def test_weights_above_the_limit_lie_beside_their_graph(weights: Weights, tmp_path: Path) -> None:
    out = tmp_path / "onnx"
    exported = export_graphs(ExportRequest(weights, out, Sizes(), inline_bytes=1000))
    assert exported.ok
    assert sorted(path.name for path in out.iterdir()) == ["CLIP.onnx", "CLIP.onnx.data", "export.json"]
    assert list(exported.files[0].files) == ["CLIP.onnx", "CLIP.onnx.data"]
    assert exported.files[0].bytes == sum((out / name).stat().st_size for name in exported.files[0].files)
    out.rename(tmp_path / "elsewhere")
    assert len(outputs(tmp_path / "elsewhere", "CLIP", input_ids=torch.ones(1, 77, dtype=torch.int32))) == 1


@pytest.mark.usefixtures("only_clip")
def test_the_tokenizer_of_an_embeddings_word_lies_beside_the_graphs(weights: Weights, tmp_path: Path) -> None:
    """No other tokenizer gives the tokens that CLIP has for it."""
    word = save({"emb_params": torch.ones(2, 32)}, tmp_path / "toy.safetensors")
    source = (str(weights.model), str(weights.controlnet))
    changed = find_weights(*source, additions=AdditionNames(embeddings=(str(word),)))
    out = tmp_path / "onnx"
    assert export_graphs(ExportRequest(changed, out, Sizes())).ok
    assert json.loads((out / "export.json").read_text())["tokenizer"] == "tokenizer.json"
    ids = Tokenizer.from_file(str(out / "tokenizer.json")).encode("toy", add_special_tokens=False).ids
    assert len(ids) == 2
    assert json.loads((out / "export.json").read_text())["words"] == [{"word": "toy", "file": str(word), "ids": ids}]
    assert len(outputs(out, "CLIP", input_ids=torch.tensor([ids], dtype=torch.int32))) == 1
    assert export_graphs(ExportRequest(weights, out, Sizes())).ok
    assert sorted(path.name for path in out.iterdir()) == ["CLIP.onnx", "export.json"]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--opset", "13"], 2, "'--opset': 13 is not one of 14 to 20: torch's exporter knows no attention below 14"),
        (["--opset", "21"], 2, "'--opset': 21 is not one of 14 to 20: torch's exporter knows no attention below 14"),
        (["--shape", "static"], 2, "'static' is not a shape; write HEIGHTxWIDTH, or a range 256x256:512x768"),
        (["--shape", "500x512"], 2, "500x512: sides must be multiples of 64 pixels"),
        (["--precision", "fp16"], 2, "No such option: --precision"),
        (["--model", "./nowhere"], 3, "./nowhere is neither a folder, nor a file, nor a hub id"),
        (["--controlnet", "./nowhere"], 3, "./nowhere is neither a folder, nor a file, nor a hub id"),
    ],
)
def test_a_wrong_export_ends_with_a_sentence_and_its_code(
    engines: Callable[..., Ended], tmp_path: Path, options: list[str], code: int, sentence: str
) -> None:
    ended = engines("export", *model_options(), "--out", tmp_path / "onnx", *options)
    assert (ended.code, ended.out) == (code, "")
    assert sentence in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_else_in_it_is_not_replaced(engines: Callable[..., Ended], tmp_path: Path) -> None:
    out = tmp_path / "onnx"
    out.mkdir()
    (out / "export.json").write_text('{"graphs": [{"files": {"CLIP.onnx": "0"}}]}')
    (out / "CLIP.onnx").write_text("")
    (out / "CLIP.plan").write_text("a plan of an hour")
    ended = engines("export", *model_options(), "--out", out)
    assert ended == Ended(5, "", f"error: {out} holds CLIP.plan, which no export wrote; name another folder with --out")
    assert (out / "CLIP.plan").read_text() == "a plan of an hour"
    (out / "CLIP.plan").unlink()
    for damaged in ("", "[]", '{"graphs": 1}', '{"graphs": [1]}'):
        (out / "export.json").write_text(damaged)
        ended = engines("export", *model_options(), "--out", out)
        assert ended.code == 5
        assert f"{out} holds CLIP.onnx, which no export wrote" in ended.err
    (tmp_path / "file").write_text("")
    ended = engines("export", *model_options(), "--out", tmp_path / "file")
    assert ended == Ended(5, "", f"error: {tmp_path / 'file'} is a file; name a folder with --out")


def test_what_is_not_installed_is_named_with_the_extra_that_brings_it(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"onnx", "onnxruntime"}
    real = installed_version
    monkeypatch.setattr(exporter, "installed_version", lambda name: None if name in absent else real(name))
    ended = engines("export", *model_options(), "--out", tmp_path / "onnx")
    assert ended == Ended(
        4,
        "",
        "error: exporting needs onnx, onnxruntime, which are not installed; pip install 'batch-renderer[engines]' "
        "brings all that it needs",
    )
    absent.remove("onnx")
    assert (
        "needs onnxruntime, which is not installed;" in engines("export", *model_options(), "--out", tmp_path / "o").err
    )


def test_models_are_named_by_the_options_of_build() -> None:
    """A model that builds a set can be exported by the same words."""
    import typer.main

    commands = typer.main.get_group(cli.app).commands
    named = {name: {option.name for option in commands[name].params} for name in ("build", "export")}
    of_a_set = {
        *("backend", "precision", "calibrate", "compute_capability", "version_compatible", "jobs", "reuse"),
        *("max_batch", "context_chunks", "sizes"),  # these axes have no end in an export
    }
    assert named["build"] - of_a_set <= named["export"]
    assert named["export"] - named["build"] == {"opset"}
