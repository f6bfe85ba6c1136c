import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rosepo_core.api import RequestError
from rosepo_core.engine.titles import TitleTrie, ranges


def arrays(*titles):
    return [np.array(title, dtype=np.int32) for title in titles]


TITLES = arrays([5, 6, 1], [5, 7, 8, 1], [5, 7, 9, 1], [2, 1], [5, 6, 3, 4, 1])


def edges(trie, node=0):
    """The trie as nested dictionaries, read through its public arrays."""
    first, count = int(trie.first_child[node]), int(trie.children[node])
    tree = {}
    for child in range(first, first + count):
        edge = trie.tokens[trie.low[child], trie.parent_depth[child] : trie.depth[child]]
        tree[tuple(edge.tolist())] = edges(trie, child) or int(trie.items[trie.low[child]])
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


@pytest.mark.parametrize(
    "pair",
    [([5, 1], [5, 1]), ([5, 1], [5, 1, 6, 1])],
    ids=["equal", "one begins the other"],
)
def test_titles_that_cannot_be_told_apart_are_named(pair):
    with pytest.raises(RequestError, match=r"'Alien' and 'Alien again' cannot be told apart"):
        TitleTrie.of(arrays(pair[0], [3, 1], pair[1]), ["Alien", "Heat", "Alien again"])


def test_an_empty_title_is_named():
    with pytest.raises(RequestError, match=r"'Nothing' has no tokens"):
        TitleTrie.of(arrays([3, 1], []), ["Heat", "Nothing"])


def test_an_empty_catalogue():
    with pytest.raises(RequestError, match="catalogue is empty"):
        TitleTrie.of([])


@given(st.sets(st.lists(st.integers(1, 3), max_size=6).map(tuple), min_size=1, max_size=30))
def test_paths_from_the_root_spell_the_titles(stems):
    titles = arrays(*([*stem, 0] for stem in stems))

    def spell(tree, prefix=()):
        for edge, below in tree.items():
            if isinstance(below, dict):
                assert len(below) > 1
                yield from spell(below, prefix + edge)
            else:
                yield below, prefix + edge

    tree = edges(TitleTrie.of(titles))
    assert dict(spell(tree)) == {item: tuple(title.tolist()) for item, title in enumerate(titles)}
