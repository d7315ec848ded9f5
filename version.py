__version__ = "0.9.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "2dba0861edfc61a4431398c2e1d806b5a6a85448ccadae158cb0140abf8aad08"
