__version__ = "0.9.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "8dbba60ff7a4ee5ac1257a0e3ce928f3e13071daa45b3eb7d89bede3bb062645"
