__version__ = "0.9.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "2e9b4fe93ea022d9f34d80f6d8d31577416a446278bd03775f75e87e28e75b6d"
