__version__ = "0.11.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "40809a39b334cc58f57bd6fffcf0de8ae5657921918c0b68f5f91239fc23673d"
