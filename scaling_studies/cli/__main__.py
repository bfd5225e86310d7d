"""The command line as a module: python -m scaling_studies.cli."""

from scaling_studies.cli import main

main()
