__version__ = "0.7.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "7b7ad8baf06d7353ce333abaa3b044f381085a310eb4b4f4bbab99a684bafcec"
