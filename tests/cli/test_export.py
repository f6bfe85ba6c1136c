"""`rosepo export`: a folder that plain transformers loads, and that recommends like the run."""

from __future__ import annotations

import json
import shutil
from types import MappingProxyType

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

import rosepo_core
from rosepo_core.contracts.errors import RequestError
from rosepo_core.engine import gguf
from rosepo_core.serving.export import hub
from rosepo_core.serving.run_lists import RunLists
from rosepo_core.serving.web.app import create_app
from rosepo_core.serving.web.served_runs import ServedRuns
from rosepo_core.serving.web.service import Service
from rosepo_core.serving.web.settings import ServeSettings
from rosepo_core.store.artifacts import write_manifest

HISTORY = ["Quiet Rivers (1994)", "Night Train (1974)"]
PROMPT = "Titles that one person chose, oldest first:\nQuiet Rivers (1994)\n"


@pytest.fixture(scope="module")
def exported(finished, rosepo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "merged"
    done = rosepo("export", finished, "--to", folder, "--json")
    assert done.code == 0, done.err
    assert done.json["difference"] < 1e-4
    assert done.json["bytes"] == sum(file.stat().st_size for file in folder.rglob("*"))
    return folder


def logits(model, folder):
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(ids).logits


def recommended(folder, **options):
    found = rosepo_core.Recommender.load(folder, **options)
    return found, found.recommend(HISTORY, 5)


def assert_alike(found, expected):
    assert [each[:1] + each[2:] for each in found] == [each[:1] + each[2:] for each in expected]
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-4)


def test_plain_transformers_has_the_logits_of_base_and_adapter(finished, exported):
    trained = AutoPeftModelForCausalLM.from_pretrained(finished / "aligned")
    merged = AutoModelForCausalLM.from_pretrained(exported)
    assert type(merged).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(merged, exported), logits(trained, finished / "aligned"), atol=1e-4, rtol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(
        json.loads((finished / "aligned" / "base_model.json").read_text())["model"]
    )
    assert (logits(base, exported) - logits(merged, exported)).abs().max() > 0.1


def test_an_export_recommends_as_its_run(finished, exported, rosepo):
    run, expected = recommended(finished)
    found, items = recommended(exported)
    assert_alike(items, expected)
    assert found.catalogue.ids == run.catalogue.ids
    assert found.catalogue.popularity.tolist() == run.catalogue.popularity.tolist()
    titles = [part for title in HISTORY for part in ("--history", title)]
    done = rosepo("recommend", exported, *titles, "--k", 5, "--json")
    assert [each["item"] for each in done.json["recommendations"]] == [each.item for each in expected]


def test_an_export_is_served(finished, exported):
    """As `rosepo serve` does it."""
    runs = ServedRuns({"demo": exported}, rosepo_core.Recommender.load, RunLists)
    service = Service(runs, ServeSettings(batch_wait=0.0, hosts=("testserver",)))
    client, ids = TestClient(create_app(service)), {"history": ["i5", "i14"], "k": 5}
    answer = client.post("/recommend", json={**ids, "by": "id"}).json()
    shown = client.get("/page/runs").json()["runs"]
    listed = client.post("/page/list", json={**ids, "model": shown[0]["models"][0]}).json()
    service.stop()
    expected = [each.item for each in recommended(finished)[1]]
    assert [each["item"] for each in answer["recommendations"]] == expected
    # The page shows its one model, and no users.
    assert [(run["name"], len(run["models"]), run["users"]) for run in shown] == [("demo", 1, False)]
    assert [each["item"] for each in listed["items"]] == expected


def test_an_export_tells_nothing_of_this_machine_or_its_users(finished, exported, model_folder):
    secrets = [str(finished), str(model_folder), str(exported.parent), *(f"u{user}" for user in range(10, 24))]
    for file in exported.rglob("*"):
        if file.suffix in (".json", ".md", ".jinja") and file.name != "tokenizer.json":
            text = file.read_text(encoding="utf-8")
            assert [secret for secret in secrets if secret in text] == [], file


def test_the_card_and_the_golden_prompts(exported, catalogue):
    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "transformers"
    metrics = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert 0 < metrics["ndcg@10"] < 1
    assert 'Recommender.load("merged")' in card.text
    assert "- `rosepo`: " in card.text
    golden = json.loads((exported / "golden_prompts.json").read_text())
    assert len(golden["prompts"]) == 24
    first = golden["prompts"][0]
    titles = dict(zip(catalogue.ids, catalogue.titles, strict=True))
    assert first["prompt"] == f"Titles that one person chose, oldest first:\n{titles[first['history'][0]]}\n"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    for candidate in first["candidates"]:
        ids = tokenizer(first["prompt"] + candidate["title"] + "\n", return_tensors="pt")["input_ids"]
        count = len(first["prompt_ids"])
        with torch.no_grad():
            of_tokens = model(ids).logits.log_softmax(-1)[0, count - 1 : -1].gather(1, ids[0, count:, None])
        assert candidate["log_prob"] == pytest.approx(float(of_tokens.sum()), abs=1e-3)


def test_a_check_finds_other_weights(exported, rosepo, tmp_path):
    assert rosepo("export", exported, "--check").code == 0
    copy = shutil.copytree(exported, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    done = rosepo("export", copy, "--check")
    assert (done.code, "model.safetensors is damaged" in done.err) == (2, True)
    (copy / "manifest.json").unlink()
    done = rosepo("export", copy, "--check")
    assert (done.code, "manifest.json is missing" in done.err) == (2, True)
    # Also if somebody forges the sums.
    write_manifest(copy, "export", "0", {}, 0)
    done = rosepo("export", copy, "--check")
    assert done.code == 1
    assert "does not give its golden answers: the log-probability of" in done.err


def test_a_gguf_file_is_asked_too(exported, rosepo, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    gguf.write(copy, copy / "model.gguf", "copy")
    write_manifest(copy, "export", "0", {}, 0)
    assert rosepo("export", copy, "--check").code == 0
    other = shutil.copytree(exported, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    gguf.write(other, copy / "model.gguf", "other")
    write_manifest(copy, "export", "0", {}, 0)
    done = rosepo("export", copy, "--check")
    assert done.code == 1
    assert "in golden prompt 1, in model.gguf, differs by" in done.err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy", "other"]


def test_what_differs_from_the_run_is_not_exported(finished, rosepo, tmp_path, monkeypatch):
    def bad(self, folder, dtype):
        self._model = self._model.unload()
        whole(self, folder, dtype)

    whole = rosepo_core.engine.policy.PolicySlot.save_whole
    monkeypatch.setattr(rosepo_core.engine.policy.PolicySlot, "save_whole", bad)
    done = rosepo("export", finished, "--to", tmp_path / "bad")
    assert done.code == 1
    assert "does not give its golden answers" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_comes_with_its_base_model(finished, rosepo, tmp_path):
    done = rosepo("export", finished, "--to", tmp_path / "new" / "adapter", "--adapter", "--model", "sft")
    assert done.code == 0, done.err
    folder = (tmp_path / "new").rename(tmp_path / "moved") / "adapter"
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    trained = AutoPeftModelForCausalLM.from_pretrained(finished / "sft")
    adapted = PeftModel.from_pretrained(base, folder)
    torch.testing.assert_close(logits(adapted, folder), logits(trained, folder), atol=1e-5, rtol=1e-5)
    assert_alike(recommended(folder)[1], recommended(finished, stage="sft")[1])
    assert rosepo("export", folder, "--check").code == 0
    assert not (folder / "model.safetensors").exists()


def test_fusion_goes_along(finished, rosepo, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    done = rosepo("evaluate", run, "--ranking.score=fusion")
    assert done.code == 0, done.err
    done = rosepo("export", run, "--to", tmp_path / "fused", "--dtype", "bfloat16", "--gguf")
    assert done.code == 0, done.err
    expected, found = recommended(run)[1], recommended(tmp_path / "fused")
    assert found[0].score == "fusion"
    # Weights in bfloat16 change scores a little.
    near = {each.item: each.score for each in recommended(run)[0].recommend(HISTORY, 40)}
    assert len(found[1]) == len(expected)
    for each in found[1]:
        assert each.score == pytest.approx(near[each.item], abs=0.25)
    card = (tmp_path / "fused" / "README.md").read_text()
    assert "Rank titles by `fusion`" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to export, and where to: rosepo export"),
        (["--to", "HERE"], "exists and is not an empty folder: name a new one"),
        (["--to", "new", "--model", "aligned2"], "unknown model 'aligned2'; did you mean 'aligned'"),
        (["--to", "new", "--model", "base", "--adapter"], "the model 'base' of"),
        (["--to", "new", "--adapter", "--dtype", "bfloat16"], "leave --dtype out"),
        (["--to", "new", "--adapter", "--gguf"], "GGUF holds a whole model: leave --adapter or --gguf out"),
        (["--to", "new", "--score", "fusion"], "--ranking.score fusion"),
        (["--to", "new", "--public"], "--public goes with --push ORG/NAME"),
        (["--check"], "is no export: it has no golden_prompts.json"),
    ],
)
def test_requests_that_cannot_be_meant(finished, rosepo, tmp_path, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    paths = {"HERE": tmp_path / "full", "new": tmp_path / "new"}
    done = rosepo("export", finished, *(paths.get(each, each) for each in arguments))
    assert done.code == 2
    assert message in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


class Hub:
    """Stands in for the hub's client, with one repository of each kind."""

    def __init__(self):
        self.calls = []
        self.known = {"me/open": False, "me/closed": True}

    def repo_info(self, name):
        if name not in self.known:
            raise RepositoryNotFoundError("no such repository", response=Answer())
        return type("Info", (), {"private": self.known[name]})

    def create_repo(self, name, *, private, exist_ok):
        self.calls.append((name, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, **_):
        self.calls.append((repo_id, sorted(file.name for file in folder_path.iterdir())))
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/1"})


class Answer:
    """What an error of the client is made from."""

    headers = MappingProxyType({})
    request = None
    status_code = 404


def test_an_export_is_pushed_private_unless_it_shall_be_public(exported, rosepo, monkeypatch):
    api = Hub()
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    done = rosepo("export", exported, "--push", "me/new")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "pushed  https://hub/me/new/1"
    files = sorted(file.name for file in exported.iterdir())
    assert api.calls == [("me/new", True, True), ("me/new", files)]
    api.calls.clear()
    hub.push(exported, "me/open", public=True)
    hub.push(exported, "me/closed", public=False)
    assert api.calls == [
        ("me/open", False, True),
        ("me/open", files),
        ("me/closed", True, True),
        ("me/closed", files),
    ]
    api.calls.clear()
    with pytest.raises(RequestError, match="everyone can see me/open on the hub: add --public if this is meant"):
        hub.push(exported, "me/open", public=False)
    assert api.calls == []
