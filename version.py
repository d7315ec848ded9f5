__version__ = "0.7.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "e79ba0400cd2a67d5803d2107bb003fbfa6c53784068ca2e8d8ed2a5bd8297d1"
