__version__ = "0.4.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "340ccb792a604ca2422074bbb8ae0ea9e18f460665f0dcbbb3ca50454e37a152"
