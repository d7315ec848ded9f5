__version__ = "0.10.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "29423994efbb119643ee3dd2792c0969ec0d573ff5c56c7307c559d1151c978c"
