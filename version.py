__version__ = "0.13.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "64c344b1f9962b3fe64293d0dcca30dcbb8412e526f7511a4ebeb0ae83d70723"
