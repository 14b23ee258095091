"""`python -m anywidth`, the same as `anywidth`, and what `torchrun` starts."""

from anywidth.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
