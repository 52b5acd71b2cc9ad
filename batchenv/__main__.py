"""``python -m batchenv`` is the ``batchenv`` command."""

from batchenv.cli import main

if __name__ == "__main__":
    main()
