__version__ = "0.12.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "13616b529e62c1a42013b69a5ec6a4e62f567dba7ef4dad374ff2efdfb4fedb0"
