__version__ = "0.6.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "db5391318f9a4e065b22fc4566da05cf6225e856b2942cb204dccec02a81ab91"
