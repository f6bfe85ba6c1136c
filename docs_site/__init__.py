"""What the documentation takes from the code: pages of plugins, tables of options, pictures of gradients."""
