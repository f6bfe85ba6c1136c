import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rosepo_core.api import RequestError
from rosepo_core.engine.title_trie import TitleTrie, ranges


def arrays(*titles):
    return [np.array(title, dtype=np.int32) for title in titles]


TITLES = arrays([5, 6, 1], [5, 7, 8, 1], [5, 7, 9, 1], [2, 1], [5, 6, 3, 4, 1])


def edges(trie, node=0):
    """The trie as nested dictionaries, read through its public arrays; the items that end at an inner node are its
    entry (), a leaf is its item or items."""
    _, places = trie.titles_at(np.array([node]))
    items = trie.items[places].tolist()
    if not trie.children[node]:
        return items[0] if len(items) == 1 else items
    tree = {(): items} if items else {}
    for child in trie.expand(np.array([node]))[1]:
        edge = trie.edge_tokens(child, np.arange(trie.edge_lengths(child)))
        tree[tuple(edge.tolist())] = edges(trie, child)
    return tree


def test_ranges():
    assert ranges(np.array([3, 7, 1]), np.array([2, 0, 3])).tolist() == [3, 4, 1, 2, 3]


def test_chains_without_a_choice_are_one_edge():
    assert edges(TitleTrie.of(TITLES)) == {
        (2, 1): 3,
        (5,): {(6,): {(1,): 0, (3, 4, 1): 4}, (7,): {(8, 1): 1, (9, 1): 2}},
    }


def test_a_common_beginning_of_all_titles_hangs_below_the_root():
    assert edges(TitleTrie.of(arrays([4, 5, 1], [4, 6, 1]))) == {(4,): {(5, 1): 0, (6, 1): 1}}


def test_a_single_title():
    assert edges(TitleTrie.of(arrays([4, 5, 1]))) == {(4, 5, 1): 0}


def test_a_node_holds_a_title_as_long_as_one_below_it_is_not_excluded():
    trie = TitleTrie.of(TITLES)
    _, (two, five) = trie.expand(np.array([0]))
    keys = trie.exclusion_keys([np.array([3]), np.array([0, 1, 2, 4, -1]), np.array([0, 4, 4])])
    nodes, examples = np.array([two, five] * 3), np.repeat([0, 1, 2], 2)
    assert trie.holds(nodes, examples, keys).tolist() == [False, True, True, False, True, True]


def test_equal_titles_are_one_leaf_and_a_beginning_of_others_is_an_inner_node():
    titles = arrays([5, 1], [5, 1, 6], [2], [5, 1], [5, 1, 6], [5, 2], [5, 1, 7, 7])
    assert edges(TitleTrie.of(titles)) == {
        (2,): 2,
        (5,): {(1,): {(): [0, 3], (6,): [1, 4], (7, 7): 6}, (2,): 5},
    }


def test_each_of_equal_titles_is_excluded_on_its_own():
    trie = TitleTrie.of(arrays([5, 1], [5, 1, 6], [5, 1]))
    _, (node,) = trie.expand(np.array([0]))
    _, places = trie.titles_at(np.array([node]))
    keys = trie.exclusion_keys([np.array([0]), np.array([1, 2]), np.array([0, 1, 2]), np.array([], np.int32)])
    out = [trie.excludes(places, np.full(2, example), keys).tolist() for example in range(4)]
    assert out == [[True, False], [False, True], [True, True], [False, False]]
    assert trie.holds(np.full(4, node), np.arange(4), keys).tolist() == [True, True, False, True]


def test_a_saved_trie_is_the_same(tmp_path):
    trie = TitleTrie.of(TITLES)
    trie.save(tmp_path / "trie.safetensors")
    again = TitleTrie.load(tmp_path / "trie.safetensors")
    assert edges(again) == edges(trie)
    assert again.ranks.tolist() == trie.ranks.tolist()


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "foreign"])
def test_what_is_no_saved_trie_is_named(tmp_path, damage):
    path = tmp_path / "trie.safetensors"
    if damage == "cut":
        TitleTrie.of(TITLES).save(path)
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "text":
        path.write_text("titles")
    elif damage == "foreign":
        save_file({"items": np.zeros(3, np.int32)}, path)
    with pytest.raises(RequestError, match=r"trie\.safetensors .*; make the run's stage anew"):
        TitleTrie.load(path)


def test_an_empty_title_is_named():
    with pytest.raises(RequestError, match=r"'Nothing' has no tokens"):
        TitleTrie.of(arrays([3, 1], []), ["Heat", "Nothing"])


def test_an_empty_catalogue():
    with pytest.raises(RequestError, match="catalogue is empty"):
        TitleTrie.of([])


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=30))
def test_paths_from_the_root_spell_the_titles(titles):
    def spell(tree, prefix=()):
        if not isinstance(tree, dict):
            yield from ((item, prefix) for item in (tree if isinstance(tree, list) else [tree]))
            return
        assert len(tree) > 1 or not prefix
        for edge, below in tree.items():
            yield from spell(below, prefix + edge)

    trie = TitleTrie.of(arrays(*titles))
    assert dict(spell(edges(trie))) == {item: tuple(title) for item, title in enumerate(titles)}
    assert [tokens.tolist() for tokens in trie.responses()] == titles
    order = trie.items.tolist()
    assert order == sorted(order, key=lambda item: (titles[item], item))
