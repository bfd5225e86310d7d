"""The command line as a module: python -m qrt_tn.studies.cli."""

from qrt_tn.studies.cli import main

main()
