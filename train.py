"""Train, evaluate and predict."""


def main():
    """Run."""
