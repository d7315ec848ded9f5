__version__ = "0.7.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "569c9e703bcb746954424f21f27d8b5e19133422e00dcb84ac99d302faa40611"
