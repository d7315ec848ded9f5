__version__ = "0.15.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "2da26974c1a75645858adfd9c325a59dbb4406c8c6ca8d4b20eefc7141f4375b"
