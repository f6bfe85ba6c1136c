"""`rosepo train --preset` and `rosepo presets`."""

from __future__ import annotations

import tomllib

import polars as pl


def test_a_preset_runs(rosepo, log, model_folder, tmp_path):
    """With fewer candidates and steps than published."""
    small = (
        *(
            "--model.dtype=float32",
            "--dataset.history_length=4",
            "--prompt.candidates=5",
            "--evaluation.candidates=5",
        ),
        *("--sft.steps=1", "--sft.batch_size=2", "--alignment.steps=1", "--alignment.batch_size=2"),
        *("--preferences.max_per_user=1", "--evaluation.resamples=100", "--metric=hr"),
    )
    asked = ("--preset=s-dpo", "--dataset=table", f"--dataset.path={log}", f"--model={model_folder}", *small)
    done = rosepo("train", *asked, "--run", tmp_path / "run")
    assert done.code == 0, done.err
    pairs = pl.read_parquet(tmp_path / "run" / "preferences" / "pairs.parquet")
    assert set(pairs["sampler"]) == {"in-candidates"}
    assert pairs["slot"].max() == 2
    assert all(pairs.select(pl.col("listed").arr.contains(pl.col("rejected_item")))["listed"])
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (config["loss"]["name"], config["loss"]["beta"], config["alignment"]["max_grad_norm"]) == ("s-dpo", 1, 0.3)

    shown = rosepo("train", *asked, "--run", tmp_path / "run", "--dry-run", "--json").json["config"]
    assert (shown["prompt"]["candidates"], shown["alignment"]["learning_rate"]) == (5, 1e-5)


def test_presets_are_listed_and_described(rosepo):
    assert "dynamic-po" in rosepo("presets", "list", "--json").json
    done = rosepo("presets", "show", "s-dpo")
    assert done.code == 0, done.err
    for part in ("arXiv", "2406.09215", "Published: ", "rosepo's own choice: ", "[alignment]", "negatives = 3"):
        assert part in done.out
    assert rosepo("presets", "show", "s-dpo", "--json").json["tables"]["loss"] == {"name": "s-dpo", "beta": 1.0}
    done = rosepo("presets", "show", "dmpoo")
    assert (done.code, "did you mean 'dmpo'" in done.err) == (2, True)
