"""`python -m ablations` is the command `ablate`."""

from densenet_ablations import main

if __name__ == "__main__":
    main()
