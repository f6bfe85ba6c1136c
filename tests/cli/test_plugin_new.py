"""`rosepo plugins new`: what it refuses. tests/packaging/test_wheel.py installs what it writes."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("My_Loss", "loss", "'My_Loss' is not kebab-case that begins with a letter, as in 'my-loss'"),
        ("3d", "loss", "'3d' is not kebab-case that begins with a letter"),
        ("mine", "losses", "unknown kind of plugin 'losses'; did you mean 'loss'?"),
        ("simpo", "loss", "there is a loss 'simpo' of rosepo 0.1.0 already; take another name"),
        ("exo-pair", "oracle", None),
        ("exo_pair", "loss", "'exo_pair' is not kebab-case"),
        ("losses", "loss", "a package 'rosepo_losses' is installed already; take another name"),
        ("tensor", "loss", "'tensor' would be the class Tensor, which rosepo uses; take another name"),
        ("sampler", "sampler", "'sampler' would be the class Sampler, which rosepo uses; take another name"),
    ],
)
def test_names_are_checked_before_anything_is_written(rosepo, tmp_path, name, kind, error):
    done = rosepo("plugins", "new", name, "--kind", kind, "--to", tmp_path / "made")
    if error is None:
        assert done.code == 0
        return
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {error}")
    assert not (tmp_path / "made").exists()


def test_nothing_is_overwritten(rosepo, tmp_path):
    (tmp_path / "rosepo-mine").mkdir()
    done = rosepo("plugins", "new", "mine", "--kind", "loss", "--to", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {tmp_path}/rosepo-mine exists already; nothing is overwritten")
    assert list((tmp_path / "rosepo-mine").iterdir()) == []


def test_the_files_of_a_new_plugin(rosepo, tmp_path):
    done = rosepo("plugins", "new", "shelf-log", "--kind", "dataset", "--to", tmp_path)
    assert done.code == 0
    folder = tmp_path / "rosepo-shelf-log"
    assert done.out.splitlines()[1:] == [
        f"  cd {folder}",
        "  pip install -e '.[test]'",
        "  rosepo plugins check shelf-log --dataset.path example.csv",
    ]
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        "README.md",
        "pyproject.toml",
        "example.csv",
        "src/rosepo_shelf_log/__init__.py",
        "src/rosepo_shelf_log/dataset.py",
        "tests/test_rosepo_shelf_log.py",
    }
    assert list(tmp_path.iterdir()) == [folder]
    assert 'dependencies = ["rosepo>=0.1,<0.2"]' in (folder / "pyproject.toml").read_text()
    assert "class ShelfLog(Dataset):" in (folder / "src/rosepo_shelf_log/dataset.py").read_text()
