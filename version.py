__version__ = "0.5.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "bf873f7bb776a709b31bb50d9bf98ad9e18d26b6a8cc4e39981918c1a8765f8a"
