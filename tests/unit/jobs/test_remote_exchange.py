"""`mulm model export` and `import` at a server elsewhere do what they do here."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.entry import JobContext
from jobs.exit_codes import EXIT_BY_CODE
from jobs.model_export import give_out
from jobs.model_import import take_in
from jobs.remote import Remote
from jobs.remote_files import RemoteFiles, StoredThere
from jobs.run_end import note_end
from jobs.weight_parts import WeightParts
from mulm.config import parse_config
from mulm.errors import MulmError, UnreachableError
from mulm.model.exchange_config import ExportConfig, ImportConfig
from mulm.refs import parse_ref
from mulm.settings import Settings
from mulm.testing import tiny_stored_model, tiny_tokenizer

NOT_HERE = "the file did not come"


@pytest.fixture
def there(server: Any) -> Any:
    """A server with a model, which does exports and imports in threads."""
    server.facts.publish("model", "tiny", tiny_stored_model(server.store, tiny_tokenizer()).id)

    def do(run_id: str) -> None:
        context = JobContext(run_id, server.home, server.store, server.facts)
        run = server.facts.run(run_id)
        try:
            if run.kind == "model_export":
                result = give_out(context, parse_config(ExportConfig, run.config))
            else:
                result = take_in(context, parse_config(ImportConfig, run.config))
            server.facts.set_phase(run_id, "succeeded", result=result)
        except MulmError as error:
            note_end(server.facts, run_id, error)
        server.jobs.end(run_id)

    server.jobs.on_submit = do
    return server


@pytest.fixture
def here(there: Any, mulm: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What a verb says on the server's own machine."""

    def say(*argv: str) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("MULM_HOME", str(there.home.root))
            patch.delenv("MULM_URL")
            return mulm.json(*argv)

    return say


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FORMS = {
    "folder": ["--to", "hf", "--dtype", "bf16"],
    "file": ["--to", "gguf", "--quant", "q8_0"],
}


@pytest.mark.parametrize("form", FORMS)
def test_an_export_there_is_the_one_here(there: Any, at_server: Any, here: Any, form: str) -> None:
    (at_server.folder / "sub").mkdir()
    told = at_server.json("model", "export", "tiny", *FORMS[form], "--out", "sub/there")
    assert told.pop("out") == "sub/there"
    expected = here("model", "export", "tiny", *FORMS[form], "--out", "here")
    assert told == {key: value for key, value in expected.items() if key != "out"}
    one, other = at_server.folder / "sub/there", at_server.folder / "here"
    if form == "folder":
        assert files_in(one) == files_in(other)
    else:
        assert one.read_bytes() == other.read_bytes()
    assert [path.name for path in one.parent.iterdir()] == ["there"], "nothing else is left"
    assert not at_server.home.root.exists(), "nothing is made in an installation here"
    code, out, err = at_server("model", "export", "tiny", *FORMS[form], "--out", "again")
    assert code == 0, err
    assert out == f"tiny@1 is in again ({told['size_bytes']} bytes)\n"
    assert "finished before" in err
    assert len(there.facts.files()) == 1, "the file stays: the run is done once"


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ("nobody --to hf --out x", "not_found"),
        ("tiny --to onnx --out x", "unknown_name"),
        ("tiny --to gguf --quant q9 --out x", "unknown_name"),
        ("tiny --to hf --quant q8_0 --out x", "config_invalid"),
        ("tiny --to gguf --dtype bf16 --out x", "config_invalid"),
        ("tiny --to hf --out there", "conflict"),
        ("tiny --to gguf --out there", "conflict"),
        ("tiny --to gguf --out nope/deep/x", "not_found"),
        ("tiny --to hf --out x --chat-template t.jinja", "config_invalid"),
        ("a/../b --to hf --out x", "config_invalid"),
    ],
)
def test_mistakes_are_those_of_an_export_here_and_begin_nothing(
    there: Any, at_server: Any, argv: str, code: str
) -> None:
    (at_server.folder / "there").mkdir()
    status, out, err = at_server("model", "export", *argv.split())
    assert (status, out) == (EXIT_BY_CODE[code], ""), err
    assert "hint:" in err
    assert there.facts.runs() == []
    assert [path.name for path in at_server.folder.iterdir()] == ["there"]


@pytest.mark.parametrize("to", ["hf", "gguf"])
@pytest.mark.parametrize("out", ["file/x", "/proc/x", "locked/x", "n" * 300])
def test_a_path_that_cannot_be_written_is_told_before_anything_is_asked(
    there: Any, at_server: Any, to: str, out: str
) -> None:
    (at_server.folder / "file").touch()
    (at_server.folder / "locked").mkdir(mode=0o500)
    if out == "locked/x" and os.access(at_server.folder / "locked", os.W_OK):
        pytest.skip("whoever runs this may write everywhere")
    code, _, err = at_server("model", "export", "tiny", "--to", to, "--out", out)
    assert code == EXIT_BY_CODE["config_invalid"], err
    assert "cannot be written" in err
    assert there.facts.runs() == []


def test_a_path_that_somebody_else_takes_meanwhile_stays_theirs(
    there: Any, at_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = RemoteFiles.content

    def taken(self: RemoteFiles, file: StoredThere, note: Any) -> Any:
        yield from content(self, file, note)
        (at_server.folder / "x").write_text("theirs")

    monkeypatch.setattr(RemoteFiles, "content", taken)
    for to in ("hf", "gguf"):
        code, _, err = at_server("model", "export", "tiny", "--to", to, "--out", "x")
        assert code == EXIT_BY_CODE["conflict"], err
        assert [path.name for path in at_server.folder.iterdir()] == ["x"]
        assert (at_server.folder / "x").read_text() == "theirs"
        (at_server.folder / "x").unlink()


def test_what_the_run_failed_with_is_told(there: Any, at_server: Any) -> None:
    manifest_id = there.facts.resolve("model", parse_ref("tiny")).manifest_id
    weights = there.store.load(manifest_id).blob("model.safetensors")
    path = there.store.path(weights)
    path.chmod(0o644)
    path.write_bytes(b"?" * weights.size_bytes)
    code, out, err = at_server("model", "export", "tiny", "--to", "gguf", "--out", "x")
    assert (code, out) == (EXIT_BY_CODE["corrupt"], ""), err
    assert list(at_server.folder.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_does_not_come_whole_leaves_nothing(
    there: Any, at_server: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    content = RemoteFiles.content

    def broken(self: RemoteFiles, file: StoredThere, note: Any) -> Any:
        yield next(content(self, file, note))[:9000]
        raise UnreachableError(NOT_HERE, hint="again")

    monkeypatch.setattr(RemoteFiles, "content", broken)
    code, out, err = at_server("model", "export", "tiny", *FORMS[form], "--out", "x")
    assert (code, out) == (EXIT_BY_CODE["unreachable"], ""), err
    assert NOT_HERE in err
    assert list(at_server.folder.iterdir()) == []


def test_a_server_that_is_killed_while_it_sends_is_gone_on_with(
    there: Any, at_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the buffers between hold, so that the connections break in the middle."""
    content = random.Random(1).randbytes(40 << 20)

    def do(run_id: str) -> None:
        blob = there.store.put("x.gguf", content)
        there.facts.add_file("file_1", "x.gguf", "model_export", blob.size_bytes, blob.sha256)
        result = {"model": "tiny@1", "format": "gguf", "file": "file_1", "size_bytes": len(content)}
        there.facts.set_phase(run_id, "succeeded", result=result)
        there.jobs.end(run_id)

    there.jobs.on_submit = do
    asked, begins = RemoteFiles._from, []

    def watched(self: RemoteFiles, file: StoredThere, done_bytes: int) -> Any:
        begins.append(done_bytes)
        for number, chunk in enumerate(asked(self, file, done_bytes)):
            if number == 1 and len(begins) < 3:
                there.stop()
                there.start()
            yield chunk

    monkeypatch.setattr(RemoteFiles, "_from", watched)
    code, _, err = at_server("model", "export", "tiny", "--to", "gguf", "--out", "x")
    assert code == 0, err
    assert len(begins) == 3
    assert 0 == begins[0] < begins[1] < begins[2] < len(content)
    assert (at_server.folder / "x").read_bytes() == content


def test_a_folder_that_is_none_is_refused(there: Any, at_server: Any, tmp_path: Path) -> None:
    """What the server's run says is a folder leads out of it."""

    def do(run_id: str) -> None:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            member = tarfile.TarInfo("../../stolen")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        blob = there.store.put("x.tar", content.getvalue())
        there.facts.add_file("file_1", "x.tar", "model_export", blob.size_bytes, blob.sha256)
        result = {"model": "tiny@1", "format": "hf", "file": "file_1", "size_bytes": 1}
        there.facts.set_phase(run_id, "succeeded", result=result)
        there.jobs.end(run_id)

    there.jobs.on_submit = do
    (at_server.folder / "a/b").mkdir(parents=True)
    code, _, err = at_server("model", "export", "tiny", "--to", "hf", "--out", "a/b/x")
    assert code == EXIT_BY_CODE["corrupt"], err
    assert "stolen" in err
    assert list((at_server.folder / "a/b").iterdir()) == []
    assert not list(tmp_path.rglob("stolen"))


def test_an_export_whose_file_was_removed_there_is_made_again(there: Any, at_server: Any) -> None:
    argv = ("model", "export", "tiny", "--to", "gguf", "--out")
    assert at_server(*argv, "x")[0] == 0
    there.facts.remove_file(there.facts.files()[0].id)
    code, _, err = at_server(*argv, "y")
    assert code == 0, err
    first, second = ((at_server.folder / name).read_bytes() for name in "xy")
    assert first == second


# Imports ----------------------------------------------------------------------------------------


@pytest.fixture
def model_folder(there: Any, at_server: Any, here: Any) -> Path:
    here("model", "export", "tiny", "--to", "hf", "--out", "hf")
    return Path(at_server.folder / "hf")


def test_a_folder_is_uploaded_and_is_the_model_that_it_is_here(
    there: Any, at_server: Any, here: Any, model_folder: Path
) -> None:
    (model_folder / "notes.txt").write_text("no part of a model")
    told = at_server.json("model", "import", "hf", "--name", "again")
    assert told["model"] == "again@1"
    names = {file.name for file in there.facts.files()}
    assert names == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "README.md", "model.safetensors",
    }  # fmt: skip
    ours = here("model", "import", "hf", "--name", "ours")
    for key in ("parameters", "licences", "chat_format", "chat_template"):
        assert told[key] == ours[key]
    assert set(told) == set(ours)
    one, other = (here("model", "show", name) for name in ("again", "ours"))
    assert (one["files"], one["shape"]) == (other["files"], other["shape"])
    assert one["imported_from"]["kind"] == "upload"
    code, out, err = at_server("model", "import", "hf", "--name", "again")
    assert (code, out) == (0, f"again@1: {told['parameters']} parameters\n")
    assert "finished before" in err
    assert len(there.facts.files()) == len(names)


@pytest.mark.parametrize("name", ["chat_template.jinja", "README.md", "tokenizer_config.json"])
def test_an_empty_file_is_as_none_here_and_there(
    there: Any, at_server: Any, here: Any, model_folder: Path, name: str
) -> None:
    (model_folder / name).write_bytes(b"")
    told = at_server.json("model", "import", "hf", "--name", "again")
    assert name not in {file.name for file in there.facts.files()}
    ours = here("model", "import", "hf", "--name", "ours")
    for key in ("parameters", "licences", "chat_format", "chat_template"):
        assert told[key] == ours[key]
    (model_folder / name).unlink()
    here("model", "import", "hf", "--name", "without")
    shown = [here("model", "show", each) for each in ("again", "ours", "without")]
    for one in shown[1:]:
        assert one["files"] == shown[0]["files"]
        assert one["licences"] == shown[0]["licences"]


def test_weights_in_parts_and_weights_that_are_cut_are_the_same_model(
    there: Any, at_server: Any, here: Any, model_folder: Path
) -> None:
    assert at_server("model", "import", "hf", "--name", "whole")[0] == 0
    size = (model_folder / "model.safetensors").stat().st_size
    there.restart(Settings(max_upload_bytes=size - 1))
    assert at_server("model", "import", "hf", "--name", "cut")[0] == 0
    assert "model.safetensors.index.json" in {file.name for file in there.facts.files()}
    for name in ("whole", "cut"):
        here("model", "export", name, "--to", "hf", "--out", f"from-{name}")
    one, other = (files_in(at_server.folder / f"from-{name}") for name in ("whole", "cut"))
    assert one["model.safetensors"] == other["model.safetensors"]


def test_weights_that_a_server_does_not_take_are_told_before_anything_is_sent(
    there: Any, at_server: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.restart(Settings(max_upload_bytes=10_000))
    code, _, err = at_server("model", "import", "hf", "--name", "large")
    assert (code, "embed_tokens" in err) == (EXIT_BY_CODE["config_invalid"], True)
    size = (model_folder / "model.safetensors").stat().st_size
    there.restart(Settings(max_upload_bytes=size - 1))
    monkeypatch.setattr(WeightParts.__init__, "__defaults__", (1,))
    code, _, err = at_server("model", "import", "hf", "--name", "many")
    assert (code, "a server takes 1" in err) == (EXIT_BY_CODE["config_invalid"], True)
    for way_out in ("own machine", "hub", "MULM_MAX_UPLOAD_BYTES"):
        assert way_out in err
    assert there.facts.files() == []
    assert there.facts.runs(kind="model_import") == []


def test_a_folder_from_a_hub_is_fetched_by_the_server(there: Any, at_server: Any) -> None:
    result = {
        "model": "q@1", "model_id": "mdl_1", "tokenizer": "q@1", "parameters": 7, "licences": [],
        "chat_format": "chatml", "chat_template": "same",
    }  # fmt: skip

    def do(run_id: str) -> None:
        there.facts.set_phase(run_id, "succeeded", result=result)
        there.jobs.end(run_id)

    there.jobs.on_submit = do
    assert at_server.json("model", "import", "owner/name@v1", "--name", "q") == result
    (run,) = there.facts.runs()
    assert run.kind == "model_import"
    assert (run.config["hub"], run.config["files"]) == ("owner/name@v1", {})
    assert there.facts.files() == []


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ("nowhere --name x", "not_found"),
        ("empty --name x", "not_found"),
        ("pickled --name x", "data_invalid"),
        ("hf --name X!", "config_invalid"),
        ("foreign --name x", "data_invalid"),
        ("torn --name x", "corrupt"),
        ("other --name x", "corrupt"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told_before_anything_is_sent(
    there: Any, at_server: Any, model_folder: Path, argv: str, code: str
) -> None:
    folder = at_server.folder
    for name in ("foreign", "torn", "other"):
        (folder / name).mkdir()
        for path in model_folder.iterdir():
            (folder / name / path.name).write_bytes(path.read_bytes())
    (folder / "empty").mkdir()
    (folder / "pickled").mkdir()
    (folder / "pickled/pytorch_model.bin").touch()
    config = json.loads((model_folder / "config.json").read_bytes())
    foreign = config | {"architectures": ["GPT2LMHeadModel"]}
    (folder / "foreign/config.json").write_text(json.dumps(foreign))
    (folder / "torn/model.safetensors").write_bytes(b"\x08")
    other = config | {"num_hidden_layers": config["num_hidden_layers"] + 1}
    (folder / "other/config.json").write_text(json.dumps(other))
    status, out, err = at_server("model", "import", *argv.split())
    assert (status, out) == (EXIT_BY_CODE[code], ""), err
    assert there.facts.files() == []
    assert there.facts.runs() == []


def test_an_upload_that_breaks_is_told_and_gone_on_with(
    there: Any, at_server: Any, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Remote.upload

    def broken(self: Remote, path: Path, purpose: str, key: str) -> Any:
        if path.name == "model.safetensors":
            raise UnreachableError(NOT_HERE)
        return upload(self, path, purpose, key)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "upload", broken)
        code, _, err = at_server("model", "import", "hf", "--name", "again")
    assert (code, NOT_HERE in err) == (EXIT_BY_CODE["unreachable"], True)
    assert there.facts.runs() == []
    sent = {file.id for file in there.facts.files()}
    assert len(sent) == 5
    assert at_server("model", "import", "hf", "--name", "again")[0] == 0
    assert sent < {file.id for file in there.facts.files()}
    assert len(there.facts.files()) == 6
