__version__ = "0.5.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "3911e09e72bb246881e1a16707487a22ec06238a1e7147cc9fa3232701793639"
