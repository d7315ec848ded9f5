__version__ = "0.10.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "fe96848352cf6e30719aefca87e532b2a2d83f20827dc60f5f95861441638e52"
