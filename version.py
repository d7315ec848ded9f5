__version__ = "0.10.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "8f77d5872dab5275df1235d1969386f83ee0578ba78cdac6a5adafe1c97a8ceb"
