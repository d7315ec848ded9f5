__version__ = "0.14.0"
# SHA-256 of the code that is saved with models of this version; hub_card/provenance.py identifies saved files by it.
# After a change of that code, raise the version and write the digest that tests/test_export.py prints.
EXPORTED_CODE = "88386bbd32f1f7445ac2f5807cc429a7cc8a1e19ba81cbb3e6fd59ef2aefdbf2"
