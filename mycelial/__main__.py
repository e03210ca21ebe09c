"""`python -m mycelial`, where no script is on the path."""

from mycelial.cli.main import main

main()
