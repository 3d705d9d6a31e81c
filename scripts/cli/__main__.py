"""``python -m albert_deploy.scripts.cli`` is ``albert-deploy``."""

from albert_deploy.scripts.cli.main import main

if __name__ == "__main__":
    main()
