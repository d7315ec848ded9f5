__version__ = "0.12.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "9fca0d27b99d1757050da0d48a528012462a4b3a5ffbd5a9440f8d0c3acd1be0"
