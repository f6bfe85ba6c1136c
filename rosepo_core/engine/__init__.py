"""Token trees: scoring and training many responses per prompt at once; catalogue trie; decoding."""
