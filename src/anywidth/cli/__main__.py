"""`python -m anywidth.cli`, the same as `anywidth`."""

from anywidth.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
