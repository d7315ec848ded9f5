__version__ = "0.8.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "9d2ff9757198140139d6309751909740ef8f79e8dfab68ab4ef1823d4ce5a9fa"
