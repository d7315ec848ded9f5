__version__ = "0.14.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "b88836e47ad48d051495beed694d69e7f7810ae162b5a50f494a66d29c7d09c3"
