__version__ = "0.15.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "de8c03570162dbec1e27d3b18dab347da63635d9c7f21df9664f6d26a37ff236"
