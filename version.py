__version__ = "0.4.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "0eeea88da9bdfa445336548da0d99d11a5d9f6a2d565e7a3422e1c0eb6a18ea6"
