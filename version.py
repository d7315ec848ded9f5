__version__ = "0.11.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "d17a82aa7f69297ae7fcd1fbb92b0a7f04c94eecfe18232a1847ef9f88fc08f3"
