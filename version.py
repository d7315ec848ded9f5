__version__ = "0.9.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "d5e8556a3c3fd76f064b425071656aea91eb7fbb233338f98854df0ab2b65779"
