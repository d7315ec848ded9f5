__version__ = "0.9.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "df5424ef7208901f00b6b236dd88a82278a497dddf5bbf88a4b1eaf63ebcf3a7"
