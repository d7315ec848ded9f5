__version__ = "0.10.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "874d40e34ee02a3329777092069e30e99536e87e91744de3cfa41ee3590972c5"
