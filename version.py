__version__ = "0.4.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "d6a64e547d6b8293da5f2edb84542562c811738153f48bc0a431efb2f3e0424e"
