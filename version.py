__version__ = "0.15.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "bc17d617b100f13afbf1ade677d86b43ab71c8c86e7d810f6b518990dbd04c84"
