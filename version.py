__version__ = "0.4.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "dfdc88594de7a5490dcba9e60192334a565e533ca7cefffca9fc28674245b90e"
