__version__ = "0.13.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "e6264f6d8866e21ca10ac753e918753fdd2bfae4cb688cc18d8a97f4d1f3cf02"
