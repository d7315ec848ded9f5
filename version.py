__version__ = "0.3.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "747bbfcd9b2b89b7bfa14358177b0c198382231356e5e3ed8deaf04ab240a850"
