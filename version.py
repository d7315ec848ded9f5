__version__ = "0.6.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "58332c72f4e00e131c0ec92acd5a561dc173bba1728a21ca677dc271347276fa"
