__version__ = "0.13.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "57a8f762b2aa7c8903e324e9a4f05591cc77d25c1257fbe8ed88e55e64166501"
