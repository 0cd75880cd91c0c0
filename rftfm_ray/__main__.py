"""`python -m rftfm_ray` is `rftfm`."""

from rftfm_ray.cli.app import main

if __name__ == "__main__":
    main()
