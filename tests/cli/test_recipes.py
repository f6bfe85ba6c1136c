"""`examples/recipes`: each plans its whole published size, on invented rows in the format of its publisher."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "recipes"
PARTS = {"train": 12, "valid": 4, "test": 4}


def histories(titles):
    """Of each part: rows of four items before, and the next one."""
    rows = [[titles[(7 * at + 3 * step) % len(titles)] for step in range(5)] for at in range(sum(PARTS.values()))]
    taken = iter(rows)
    return {part: list(islice(taken, count)) for part, count in PARTS.items()}


def lastfm(folder, catalogue):
    for part, rows in histories(catalogue.titles).items():
        name = "val" if part == "valid" else part
        content = []
        for row in rows:
            others = [title for title in catalogue.titles if title not in row]
            content.append(
                {"historyList": "::".join(row[:-1]), "itemList": [*others[:19], row[-1]], "trueSelection": row[-1]}
            )
        (folder / f"lastfm-{name}.json").write_text(json.dumps(content))
    return {"path": folder}


def goodreads(folder, catalogue):
    for part, rows in histories(catalogue.titles).items():
        content = [
            {
                "instruction": "Recommend a book.",
                "input": "The user has read: " + ", ".join(f'"{title}"' for title in row[:-1]),
                "output": f'"{row[-1]}"\n',
            }
            for row in rows
        ]
        (folder / f"{part}.json").write_text(json.dumps(content))
    (folder / "id2name.json").write_text(json.dumps(dict(zip(catalogue.ids, catalogue.titles, strict=True))))
    (folder / "name2genre.json").write_text(json.dumps({title: ["Fiction"] for title in catalogue.titles}))
    return {"path": folder}


def amazon(folder, catalogue):
    number = {title: at for at, title in enumerate(catalogue.titles)}
    for part, rows in histories(catalogue.titles).items():
        lines = ["history_item_title\titem_title\thistory_item_id\titem_id"]
        lines += [
            f"{json.dumps(row[:-1])}\t{row[-1]}\t{[number[title] for title in row[:-1]]}\t{number[row[-1]]}"
            for row in rows
        ]
        cells = [line.split("\t") for line in lines]
        quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells]
        (folder / f"{part}.csv").write_text("\n".join(quoted) + "\n")
    info = "".join(f"<a_{at}><b_0><c_0>\t{title}\t{at}\n" for title, at in number.items())
    (folder / "info.txt").write_text(info)
    return {
        "path": folder / "train.csv",
        "validation": folder / "valid.csv",
        "test": folder / "test.csv",
        "info": folder / "info.txt",
    }


PUBLISHED = {
    "s-dpo-lastfm": (lastfm, {"sft.epochs": 5, "alignment.batch_size": 128, "preferences.negatives": 3}),
    "sprec-goodreads": (goodreads, {"rounds": 3, "sft.learning_rate": 3e-4, "evaluation.ks": [1, 5]}),
    "minionerec-industrial": (amazon, {"evaluation.beams": 50, "sft.method": "full", "preferences.negatives": 15}),
}


def test_every_recipe_is_tested():
    assert {file.stem for file in RECIPES.glob("*.toml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_plans_the_published_size(name, rosepo, catalogue, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    write, published = PUBLISHED[name]
    data = [f"--dataset.{key}={path}" for key, path in write(tmp_path, catalogue).items()]
    ours = (f"--model={model_folder}", "--model.quantization=none", "--run", tmp_path / "run")
    done = rosepo("train", "--config", RECIPES / f"{name}.toml", *data, *ours, "--dry-run", "--json")
    assert done.code == 0, done.err
    config = done.json["config"]
    for key, value in published.items():
        section, _, option = key.partition(".")
        assert (config[section][option] if option else config[section]) == value, key
    assert config["prompt"]["name"].endswith("plain_prompt.py:PlainPrompt")
    assert not (tmp_path / "run").exists()
