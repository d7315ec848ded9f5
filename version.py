__version__ = "0.14.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "9c5f20945e1299b3993498766d3b200aac5601d8f4c0a0e1cfe110b23a5ef878"
