"""`python -m diffaug`."""

from diffaug.cli import main

if __name__ == "__main__":
    main()
