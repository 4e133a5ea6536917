"""`python -m anlyt`: the same as the console script.

`anlyt up` starts its roles this way, so that they run with the interpreter and the packages it runs with itself,
whatever the PATH says.
"""

from anlyt.cli import main

main()
