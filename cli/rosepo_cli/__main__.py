"""`python -m rosepo_cli`, which launchers start in each of their processes."""

from rosepo_cli import main

main()
