__version__ = "0.10.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "aa7aab41f87bd5837abf50e1542b1719e7b087e8f560fd19638577ff3da36e26"
