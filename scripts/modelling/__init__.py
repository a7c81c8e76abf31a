"""What ``models.py`` needs: the architectures, a plain replica of each method, the page."""
