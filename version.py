__version__ = "0.11.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "38c3d56ea5f871913e337e5b8e038e2341f0be6a8234367da362bc3ac96166c1"
