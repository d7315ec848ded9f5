__version__ = "0.5.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "96809b42b6fc75b77361ce3ff16b7831c1ae3e6661b58824078f62cab8bc4f3c"
