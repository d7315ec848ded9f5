__version__ = "0.15.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "800cfead928c5ed27a3e1fbee0f5b86e1692532cd1fa90f2ad218d122f2bca92"
