__version__ = "0.12.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "24754fac054b71ed73529b5210183b478af7b55770f3906f52dbfc969b5f95ba"
