__version__ = "0.14.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "b8d879f471b78c051bb912aa3978586b22fdbc92185f603692a4e4f75c03d114"
