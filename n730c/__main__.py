"""``python -m n730c`` is ``n730c``."""

from n730c.cli import main

main()
